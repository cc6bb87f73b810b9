// The file of audited slates, a line of JSON each, that `rexit audit` reads; docs/format/policy.md describes it.
#pragma once

#include <mutex>
#include <string>

#include "rexit/rexit.hpp"

namespace rexit::program {

class AuditLog {
 public:
  // Only the owner may read the file: it has ids of users and items. Removes a last line without its end. Throws Failure if it
  // cannot be written, or another service writes it.
  AuditLog(const std::string& path, const Bundle& bundle);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  // Appends a line, from any thread. `request`: as it was scored. Prints a warning if that fails.
  void write(const std::string& request, const Audit& audit);

 private:
  const std::string path_, policy_sha256_;
  const int file_;
  std::mutex mutex_;
};

}  // namespace rexit::program

// A file that appears under its name complete, or not at all.
#pragma once

#include <cstddef>
#include <string>

namespace rexit::core {

// Written under a temporary name in the same folder. finish() renames it to `path`, replacing an older file; without finish() the
// destructor deletes it. Only its owner may read it. All functions throw REXIT_WRITE_FAILED.
class NewFile {
 public:
  explicit NewFile(const std::string& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, std::size_t bytes);
  // Its path until finish(), for reading it back.
  const std::string& temporary_path() const noexcept { return temporary_path_; }
  // Returns once contents and name are on the disk.
  void finish();

 private:
  [[noreturn]] void fail_to(const char* action) const;

  std::string path_, temporary_path_;
  int file_ = -1;  // -1: finished
};

}  // namespace rexit::core

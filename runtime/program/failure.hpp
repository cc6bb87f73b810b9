// The failure of a command: a line and an exit code.
#pragma once

#include <stdexcept>
#include <string>

#include "rexit/rexit.h"

namespace rexit::program {

// The exit codes of `rexit`; docs/how-to/without-python.md lists them.
constexpr int other_failure = 1, bad_input = 2, bad_bundle = 4, bad_backend = 6, too_late = 7, not_verified = 8;

int exit_code(rexit_status status) noexcept;

class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& line, int code = bad_input) : std::runtime_error(line), code_(code) {}
  int code() const noexcept { return code_; }

 private:
  int code_;
};

}  // namespace rexit::program

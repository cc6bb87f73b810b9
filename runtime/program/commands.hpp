// The commands (a file each), their options and how they fail.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "rexit/rexit.hpp"

namespace rexit::program {

// The exit codes of `rexit`; docs/how-to/without-python.md lists them.
constexpr int other_failure = 1, bad_input = 2, bad_bundle = 4, bad_backend = 6, not_verified = 8;

// The failure of a command: a line and an exit code.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& line, int code = bad_input) : std::runtime_error(line), code_(code) {}
  int code() const noexcept { return code_; }

 private:
  int code_;
};

struct Options {
  std::string bundle;
  BundleOptions execution;
  bool json = false;                         // of verify
  std::size_t sessions = 1, cache_mib = 32;  // of pipe
};

// Both return the exit code, or throw Failure or rexit::Error.
int verify(const Options& options);
int pipe(const Options& options);

}  // namespace rexit::program

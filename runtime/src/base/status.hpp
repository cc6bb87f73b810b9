// Errors inside the runtime: one exception type, which carries a rexit_status and never crosses the C ABI.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "rexit/rexit.h"

namespace rexit::core {

// The message is one line that names the thing, what was seen and what was expected.
class Error : public std::runtime_error {
 public:
  Error(rexit_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  rexit_status status() const noexcept { return status_; }

 private:
  rexit_status status_;
};

// Throws Error with the parts concatenated: fail(REXIT_CORRUPT, path, ": ", seen, " bytes, expected ", expected).
template <class... Parts>
[[noreturn]] void fail(rexit_status status, const Parts&... parts) {
  std::ostringstream line;
  (line << ... << parts);
  throw Error(status, line.str());
}

// Turns the exception being handled into a status and this thread's last error. Call only from a catch block.
rexit_status report_current_exception() noexcept;
const char* last_error() noexcept;
const char* status_name(rexit_status status) noexcept;

void set_log(void (*log)(void*, rexit_log_level, const char*), void* context, rexit_log_level level) noexcept;
void log(rexit_log_level level, const std::string& line) noexcept;

}  // namespace rexit::core

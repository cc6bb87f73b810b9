// Errors inside the runtime: one exception type, which carries a rexit_status and never crosses the C ABI.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "rexit/rexit.h"

namespace rexit::core {

// The message is one line: the thing, its value, the value expected.
class Error : public std::runtime_error {
 public:
  Error(rexit_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  rexit_status status() const noexcept { return status_; }

 private:
  rexit_status status_;
};

// Text or a number in a message. The text must outlive it.
class MessagePart {
 public:
  MessagePart(std::string_view text) noexcept : text_(text) {}
  MessagePart(const std::string& text) noexcept : text_(text) {}
  MessagePart(const char* text) noexcept : text_(text) {}
  MessagePart(char character) noexcept : text_(digits_, 1) { digits_[0] = character; }
  template <class Number, std::enable_if_t<std::is_arithmetic_v<Number>, int> = 0>
  MessagePart(Number number) noexcept {
    if constexpr (std::is_floating_point_v<Number>) {
      print(static_cast<double>(number));
    } else if constexpr (std::is_signed_v<Number>) {
      print(static_cast<long long>(number));
    } else {
      print(static_cast<unsigned long long>(number));
    }
  }
  MessagePart(const MessagePart&) = delete;
  MessagePart& operator=(const MessagePart&) = delete;
  std::string_view text() const noexcept { return text_; }

 private:
  void print(double number) noexcept;  // six significant digits
  void print(long long number) noexcept;
  void print(unsigned long long number) noexcept;

  char digits_[24];
  std::string_view text_;
};

// Throws Error with the parts concatenated. Not a template, so that a call site holds no code of its own for it.
[[noreturn]] void fail_with(rexit_status status, std::initializer_list<MessagePart> parts);

// fail(REXIT_CORRUPT, path, ": ", bytes, " bytes, expected ", expected_bytes)
template <class... Parts>
[[noreturn]] void fail(rexit_status status, const Parts&... parts) {
  fail_with(status, {MessagePart(parts)...});
}

// Converts the exception being handled to a status and to this thread's last error. Call only from a catch block.
rexit_status report_current_exception() noexcept;
const char* last_error() noexcept;
const char* status_name(rexit_status status) noexcept;

void set_log(void (*log)(void*, rexit_log_level, const char*), void* context, rexit_log_level level) noexcept;
void log(rexit_log_level level, const std::string& line) noexcept;

}  // namespace rexit::core

// Time within one call.
#pragma once

#include <chrono>
#include <cstdint>

namespace rexit::core {

using Clock = std::chrono::steady_clock;

inline double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// No segment starts after it.
class Deadline {
 public:
  // `microseconds` from `start`; 0: none.
  Deadline(Clock::time_point start, std::int64_t microseconds)
      : start_(start), budget_(microseconds > 0 ? static_cast<double>(microseconds) : 0) {}
  bool expired() const { return budget_ > 0 && microseconds_since(start_) >= budget_; }

 private:
  Clock::time_point start_;
  double budget_;  // a double, so that no budget overflows
};

}  // namespace rexit::core

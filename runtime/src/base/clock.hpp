// Time spent in a call, and its deadline.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/status.hpp"

namespace rexit::core {

using Clock = std::chrono::steady_clock;

inline double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Adds the time spent in its scope to `total`, also if an exception leaves the scope.
class Timer {
 public:
  explicit Timer(double& total) : total_(total) {}
  ~Timer() { total_ += microseconds_since(start_); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  double& total_;
  Clock::time_point start_ = Clock::now();
};

// A call's deadline: no segment starts after it.
class Deadline {
 public:
  // `microseconds` after `start`; 0: no deadline. `cancelled` must outlive the deadline; null: the call cannot be cancelled.
  Deadline(Clock::time_point start, std::int64_t microseconds, const std::atomic<bool>* cancelled = nullptr)
      : start_(start), budget_(microseconds > 0 ? static_cast<double>(microseconds) : 0), cancelled_(cancelled) {}
  bool expired() const { return budget_ > 0 && microseconds_since(start_) >= budget_; }

  // For work without a partial result. Throws REXIT_CANCELLED or REXIT_DEADLINE.
  void check(const char* work) const {
    if (cancelled_ != nullptr && *cancelled_) fail(REXIT_CANCELLED, "cancelled during ", work);
    if (expired()) fail(REXIT_DEADLINE, "the deadline passed during ", work, ", before any candidate had reached its first exit");
  }

 private:
  Clock::time_point start_;
  double budget_;  // a double, so that no budget overflows
  const std::atomic<bool>* cancelled_;
};

}  // namespace rexit::core

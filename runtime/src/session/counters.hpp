// Counts of what candidates did at an exit, over a session's requests. Only the constructor allocates.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "rexit/rexit.h"

namespace rexit::core {

struct ExitCounters {
  std::uint64_t reached = 0, stopped = 0, cut_short = 0;
  std::array<std::uint64_t, REXIT_COUNTER_BINS> histogram{};  // of c, as rexit_exit_counters says

  static std::size_t bin(float c) noexcept {
    constexpr float half = REXIT_COUNTER_BINS / 2;
    return static_cast<std::size_t>(std::clamp(std::floor(2 * c), -half, half - 1) + half);
  }
  void add(const ExitCounters& other) noexcept {
    reached += other.reached;
    stopped += other.stopped;
    cut_short += other.cut_short;
    for (std::size_t i = 0; i < histogram.size(); ++i) histogram[i] += other.histogram[i];
  }
};

// A request's counts stay separate until commit(). Any thread may call total() and reset().
class Counters {
 public:
  explicit Counters(std::size_t exits) : total_(exits), request_(exits) {}

  void begin() noexcept { std::fill(request_.begin(), request_.end(), ExitCounters{}); }
  void count_arrival(std::size_t exit, float c) noexcept {
    ++request_[exit].reached;
    ++request_[exit].histogram[ExitCounters::bin(c)];
  }
  void count_answer(std::size_t exit, bool cut_short) noexcept {
    ++(cut_short ? request_[exit].cut_short : request_[exit].stopped);
  }
  void commit() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::size_t k = 0; k < total_.size(); ++k) total_[k].add(request_[k]);
  }

  std::vector<ExitCounters> total() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return total_;
  }
  void reset() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::fill(total_.begin(), total_.end(), ExitCounters{});
  }

 private:
  mutable std::mutex mutex_;  // guards total_
  std::vector<ExitCounters> total_, request_;
};

}  // namespace rexit::core

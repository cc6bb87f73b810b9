// A policy's rules for the whole slate: candidates stop because of the other candidates.
#pragma once

#include <cstddef>
#include <vector>

#include "bundle/policy.hpp"

namespace rexit::core {

// The top-k rule. A candidate's final c lies in the interval [c - fall, c + rise] of its deepest exit so far.
class RankIntervals {
 public:
  struct Interval {
    float low, high;
  };

  static Interval interval(const TopK& rule, std::size_t exit, float c) noexcept {
    return {c - rule.fall[exit], c + rule.rise[exit]};
  }

  void clear() noexcept;
  void add(Interval interval);
  void sort() noexcept;  // call after the last add()
  // Whether it is certain that the candidate is among the best k or not; if `ordered`, among the best k only with a certain rank.
  // `interval` must have been added.
  bool is_settled(Interval interval, std::size_t k, bool ordered) const noexcept;

  std::size_t memory() const noexcept { return (lows_.capacity() + highs_.capacity()) * sizeof(float); }

 private:
  std::vector<float> lows_, highs_;  // ascending
};

}  // namespace rexit::core

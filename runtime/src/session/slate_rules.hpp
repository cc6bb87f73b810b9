// The rules of a policy that look at the whole slate: which candidates stop because of the others.
#pragma once

#include <cstddef>
#include <vector>

#include "bundle/policy.hpp"

namespace rexit::core {

// Whose place in or out of the best k is known. Each candidate's c will end in the interval [c - fall, c + rise] of the exit it
// answered at last.
class Places {
 public:
  struct Interval {
    float low, high;
  };

  static Interval interval(const TopK& rule, std::size_t exit, float c) noexcept {
    return {c - rule.fall[exit], c + rule.rise[exit]};
  }

  void clear() noexcept;
  void add(Interval interval);
  void sort() noexcept;  // once all have been added
  // `one` is among those added.
  bool known(Interval one, std::size_t k, bool ordered) const noexcept;

  std::size_t memory() const noexcept { return (lows_.capacity() + highs_.capacity()) * sizeof(float); }

 private:
  std::vector<float> lows_, highs_;  // each in ascending order
};

// Whether so few of a slate are left that they stop too.
inline bool within_quorum(std::size_t left, std::size_t slate, float quorum) noexcept {
  return static_cast<double>(left) <= static_cast<double>(quorum) * static_cast<double>(slate);
}

}  // namespace rexit::core

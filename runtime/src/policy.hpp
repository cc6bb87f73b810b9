// When a candidate stops. docs/format.md states the rule; src/rexit/bundle/policy.py is the same in NumPy, to the bit.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace rexit::core {

// c = a z + b in float32; stops at c >= upper or c <= -lower. Infinity never stops.
struct ExitRule {
  float a = 1, b = 0;
  float upper = std::numeric_limits<float>::infinity(), lower = std::numeric_limits<float>::infinity();

  float calibrated(float log_odds) const noexcept { return a * log_odds + b; }
  bool confident(float c) const noexcept { return c >= upper || c <= -lower; }
};

struct Policy {
  std::vector<ExitRule> exits;
  std::size_t patience = 1;
};

// How long one candidate's heads have agreed on the sign of c.
struct Agreement {
  std::uint32_t heads = 0;
  bool positive = false;

  void add(float c) noexcept {
    const bool now = c >= 0;
    heads = heads != 0 && now == positive ? heads + 1 : 1;
    positive = now;
  }
};

inline float probability(float c) noexcept { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(c)))); }

}  // namespace rexit::core

// When a candidate stops. docs/format.md states the rules; src/rexit/bundle/policy.py is the same in NumPy, to the bit.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace rexit::core {

// The largest values in a policy.json. With larger ones, c could overflow float32 for ordinary log-odds.
constexpr float max_slope = 1e9f, max_intercept = 1e9f;
constexpr std::size_t max_candidates = std::numeric_limits<std::int32_t>::max();  // numbered in 32 bits; also the largest top-k

// c = a z + b in float32; stops at c >= upper or c <= -lower. An infinite threshold never stops, however large c is.
struct ExitRule {
  float a = 1, b = 0;
  float upper = std::numeric_limits<float>::infinity(), lower = std::numeric_limits<float>::infinity();

  float calibrated(float log_odds) const noexcept { return a * log_odds + b; }
  bool confident(float c) const noexcept {
    constexpr float never = std::numeric_limits<float>::infinity();
    return (c >= upper && upper != never) || (c <= -lower && lower != never);
  }
};

// Stops candidates whose place in or out of the best k of their slate is known; if `ordered`, those in it not before their rank
// is known. rise, fall: [exits - 1], how far c may still move up and down from each exit to the last.
struct TopK {
  std::size_t k = 0;  // 0: no such rule
  bool ordered = false;
  std::vector<float> rise, fall;
};

struct Policy {
  std::vector<ExitRule> exits;
  std::size_t patience = 1;
  TopK top_k;
  float quorum = 0;  // the share of a slate that is not worth another segment; 0: any is
};

// How many of a candidate's last heads agree on the sign of c.
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

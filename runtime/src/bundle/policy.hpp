// What policy.json says. docs/format/policy.md states the rules; session/stops.hpp applies them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace rexit::core {

class Json;

constexpr std::size_t max_candidates = std::numeric_limits<std::int32_t>::max();  // of a slate; also the largest count

// Of an exit's map. With larger values, c could overflow float32 for ordinary log-odds.
constexpr float max_slope = 1e9f, max_intercept = 1e9f;

constexpr float no_threshold = std::numeric_limits<float>::infinity();  // a threshold at which no candidate stops
constexpr float no_floor = -std::numeric_limits<float>::infinity();

// c = a z + b in float32. A candidate stops at c >= upper or c <= -lower; at an infinite threshold it never stops.
struct ExitRule {
  float a = 1, b = 0;
  float upper = no_threshold, lower = no_threshold;

  float calibrated(float log_odds) const noexcept { return a * log_odds + b; }
  // `slack`: how far c is moved towards the thresholds.
  bool confident(float c, float slack = 0) const noexcept {
    return ((c >= upper - slack) & (upper != no_threshold)) | ((c <= slack - lower) & (lower != no_threshold));
  }
};

// Stops a candidate once it is certain whether the candidate is among the best k of its slate.
struct TopK {
  std::size_t k = 0;              // 0: no such rule
  bool ordered = false;           // a candidate among the best k stops only once its rank is certain
  std::vector<float> rise, fall;  // [exits - 1]: how far c may still rise and fall from an exit to the last
};

struct Policy {
  std::vector<ExitRule> exits;
  std::size_t patience = 1;
  TopK top_k;
  std::size_t quorum = 0;  // a slate stops when at most so many of it are undecided; 0: never
  float floor = no_floor;  // a request may leave out candidates with a c below it; no rule reads it
  float prior_shift = 0;   // added to c for a probability of the world, where negatives were sampled; no rule reads it
  // What earlier heads add to c: of exit k, k weights, from k (k - 1) / 2 on. Empty: every exit reads its own head alone.
  std::vector<float> earlier;
  std::vector<std::size_t> keep = {};  // [exits]: how many candidates of a slate go on at most; 0: no limit. Empty: no limits

  const float* earlier_weights(std::size_t exit) const noexcept { return earlier.data() + exit * (exit - 1) / 2; }
  std::size_t keep_after(std::size_t exit) const noexcept { return keep.empty() ? 0 : keep[exit]; }
  // Whether a candidate may stop because of the others in its slate, after `first_exit` or a later exit.
  bool has_slate_rules(std::size_t first_exit = 0) const noexcept { return quorum != 0 || compares_candidates(first_exit); }
  // Whether a candidate may stop because of what the others have as c.
  bool compares_candidates(std::size_t first_exit = 0) const noexcept {
    const auto limits = [](std::size_t count) { return count != 0; };
    return top_k.k != 0 ||
           (!keep.empty() && std::any_of(keep.begin() + static_cast<std::ptrdiff_t>(first_exit), keep.end(), limits));
  }
  // c at an exit. log_odds: those of the heads so far, [exit + 1].
  float calibrated(std::size_t exit, const float* log_odds) const noexcept {
    float c = exits[exit].calibrated(log_odds[exit]);
    if (earlier.empty()) return c;
    const float* of_earlier = earlier_weights(exit);
    for (std::size_t j = 0; j < exit; ++j) c += of_earlier[j] * log_odds[j];
    return c;
  }
};

// Reads a policy for `exits` exits from policy.json. Throws REXIT_CORRUPT.
Policy read_policy(const Json& root, std::size_t exits);
// Reads its rules alone (`patience`, `quorum`, `top_k`, and thresholds and `keep` of the exits), and leaves the maps of `policy`.
void read_rules(const Json& root, Policy& policy);

// The number of a candidate's last heads that agree on the sign of c. Within a slack, the sign is not known: it agrees if the
// slack is positive.
struct Agreement {
  std::uint32_t heads = 0;
  bool positive = false, unknown = false;

  // Without branches: a sign cannot be predicted.
  void add(float c, float slack = 0) noexcept {
    const bool was_unknown = unknown, agrees = (c >= 0) == positive;
    positive = c >= 0;
    unknown = (slack != 0) & (std::fabs(c) <= std::fabs(slack));
    const bool in_doubt = was_unknown | unknown;
    heads = heads * static_cast<std::uint32_t>((in_doubt & (slack > 0)) | (!in_doubt & agrees)) + 1;
  }
};

inline float probability(float c, float prior_shift) noexcept {
  return static_cast<float>(1.0 / (1.0 + std::exp(-(static_cast<double>(c) + static_cast<double>(prior_shift)))));
}

}  // namespace rexit::core

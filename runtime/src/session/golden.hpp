// Golden samples: whether the loaded segments compute here what the exporter recorded.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "session/session.hpp"

namespace rexit::core {

// A golden slate against what is computed here.
struct GoldenCheck {
  std::size_t slates = 0;      // golden slates of the variant
  std::size_t candidates = 0;  // of this one
  float tolerance = 0;         // of log-odds
  float worst = 0;             // largest difference from the recorded log-odds; infinity if one is not finite
  std::string prompt;          // the first difference from the recorded prompt, as a line; empty: none
  std::string log_odds;        // where `worst` is, as a line; empty: within the tolerance
  std::string decision;        // the first of a score that the trace contradicts, as a line; empty: none
  std::vector<float> trace;    // [candidates, exits]
};

// Assembles golden slate number `slate`, traces it without cached prefixes, and scores it by the bundle's policy with a cold and
// with a warm prefix. Throws REXIT_INVALID_ARGUMENT if there is no such slate; what Bundle throws for a missing or damaged file;
// and what scoring throws.
GoldenCheck check_golden(Session& session, std::size_t slate);

}  // namespace rexit::core

// A variant's golden samples: real slates with their prompts and expected log-odds (docs/format.md).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "rexit/rexit.hpp"

namespace rexit::program {

struct GoldenSlate {
  // Without a catalog there are no users and times, and the items are the candidates' numbers.
  std::int32_t user;  // a row of the catalog, as the items are
  std::vector<std::int32_t> items;
  std::int64_t as_of;
  std::vector<std::pair<std::string, ContextValue>> context;
  std::vector<std::pair<std::string, std::vector<std::int32_t>>> texts;
  std::vector<std::int32_t> tokens;  // of the prefix, then of the candidates
  std::vector<std::size_t> offsets;  // 0, end of the prefix, end of candidate 0, …
  std::vector<float> log_odds;       // [items, exits, objectives]
};

struct Golden {
  float tolerance;  // of log-odds
  std::vector<GoldenSlate> slates;
};

// The golden samples for the active catalog: the variant's, or in a refreshed bundle the catalog's. Throws Failure for an invalid
// file.
Golden read_golden(const Bundle& bundle);

}  // namespace rexit::program

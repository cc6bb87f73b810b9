// A variant's golden samples: real slates with their prompts, and the log-odds expected of them (docs/format.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rexit::program {

struct GoldenSlate {
  std::int32_t user;  // a row of the catalog, as the items are
  std::vector<std::int32_t> items;
  std::int64_t as_of;
  std::vector<std::int32_t> tokens;  // the prefix's, then each candidate's
  std::vector<std::size_t> offsets;  // 0, the end of the prefix, the end of each candidate
  std::vector<float> log_odds;       // [items, exits]
};

struct Golden {
  float tolerance;  // of log-odds
  std::vector<GoldenSlate> slates;
};

// Those with the catalog in force: the variant's own, or of a refreshed bundle the catalog's. Throws Failure if a file is not
// what it must be.
Golden read_golden(const std::string& bundle, const std::string& variant, std::size_t exits);

}  // namespace rexit::program

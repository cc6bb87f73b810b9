// golden.safetensors of a variant: real slates with their prompts, and the log-odds expected of them (docs/format.md).
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

// Of the variant in `folder`. Throws Failure if its files are not what they must be.
Golden read_golden(const std::string& folder, std::size_t exits);

}  // namespace rexit::program

// Several objectives, such as click and like: their names in variant.json, and their part of policy.json.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bundle/policy.hpp"
#include "files/json.hpp"

namespace rexit::core {

constexpr std::size_t min_objectives = 2, max_objectives = 16, max_objective_name = 64;

// `objectives` of variant.json: distinct names; empty if there is no such key. Throws REXIT_CORRUPT.
std::vector<std::string> read_objectives(const Json& variant);

// Sets the utility's weights and the objectives' maps. Does nothing for a single objective. Throws REXIT_MISMATCH for a policy
// for other objectives, REXIT_CORRUPT for a number out of range.
void read_utility(const Json& policy, const std::vector<std::string>& objectives, Policy& out);

// Without a policy.json: all weights 1, log-odds as the heads give them.
void set_default_utility(std::size_t objectives, std::size_t exits, Policy& out);

}  // namespace rexit::core

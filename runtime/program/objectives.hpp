// Several objectives: their names, and weights of a utility as text and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rexit/rexit.hpp"

namespace rexit::program {

// Empty if the bundle has a single objective.
std::vector<std::string> objective_names(const Bundle& bundle);

// The weights of `NAME=NUMBER`, separated by commas, in the order of the objectives. Throws Failure for another form, and for
// other names than the objectives'.
std::vector<float> parse_weights(const std::string& text, const std::vector<std::string>& objectives);
// Of an object of numbers, by name; likewise.
std::vector<float> parse_weights(const nlohmann::json& value, const std::vector<std::string>& objectives);

}  // namespace rexit::program

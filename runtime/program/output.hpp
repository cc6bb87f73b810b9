// Output of commands: tables, and the same JSON as `rexit`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rexit::program {

// Aligns the first column left and the others right.
void print_table(const std::string& title, const std::vector<std::string>& columns,
                 const std::vector<std::vector<std::string>>& rows);
// `value` with `digits` digits after the point.
std::string fixed(double value, int digits);
// `value` in up to `digits` digits.
std::string general(double value, int digits = 6);
// Prints a document on stdout. Numbers that JSON cannot represent become null.
void print_json(const nlohmann::ordered_json& value);
// The value as a line, whatever bytes its strings contain.
std::string on_one_line(const nlohmann::ordered_json& value);

}  // namespace rexit::program

// What commands print: tables, and the JSON that `rexit` prints for the same.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rexit/rexit.hpp"

namespace rexit::program {

// The first column is text, the others are aligned right.
void print_table(const std::string& title, const std::vector<std::string>& columns,
                 const std::vector<std::vector<std::string>>& rows);
// `value` with `digits` digits behind the point.
std::string fixed(double value, int digits);
// One document on stdout. Numbers that JSON cannot hold become null.
void print_json(const nlohmann::ordered_json& value);
// One line of it, whatever bytes its strings hold.
std::string on_one_line(const nlohmann::ordered_json& value);

// {"known": whether the catalog has the user, "scores": […], "stats": {…}}. `items`: the request's. `depths`: the exits', in
// layers.
nlohmann::ordered_json answer(const Scores& scores, const std::vector<Id>& items, const std::vector<std::size_t>& depths);
std::vector<std::size_t> depths(const Bundle& bundle);

}  // namespace rexit::program

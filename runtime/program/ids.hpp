// Ids as text and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "rexit/rexit.hpp"

namespace rexit::program {

// An interaction newer than the catalog's, and whether it was liked.
using Recent = std::vector<std::pair<Id, bool>>;

// `what`, in messages: "user" or "item". `strings`: the catalog's ids are. All of them throw Failure for what is not such an id:
// `007` and `+7` are not the integer 7, since two ids must never become one.
Id parse_id(const std::string& text, bool strings, const char* what);
// Separated by commas, at least one.
std::vector<Id> parse_ids(const std::string& text, bool strings, const char* what);
// `ITEM`, `ITEM:1` for liked, `ITEM:0` for not liked, separated by commas.
Recent parse_recent(const std::string& text, bool strings);
Id parse_id(const nlohmann::json& value, bool strings, const char* what);

nlohmann::ordered_json to_json(const Id& id);
// As in a message: 7, or 'seven'.
std::string shown(const Id& id);

void add_recent(Request& request, const Recent& recent);

}  // namespace rexit::program

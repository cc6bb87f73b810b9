// Ids, contexts and request texts as text and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "rexit/rexit.hpp"

namespace rexit::program {

// Interactions newer than the catalog's: an item, and whether the user liked it.
using Recent = std::vector<std::pair<Id, bool>>;

// `kind`: "user" or "item", for messages. `strings`: whether the catalog's ids are strings. All parse functions throw Failure for
// an invalid id: `007` and `+7` are not the integer 7, since two ids must never become one.
Id parse_id(const std::string& text, bool strings, const char* kind);
// Separated by commas, at least one.
std::vector<Id> parse_ids(const std::string& text, bool strings, const char* kind);
// `ITEM`, `ITEM:1` for liked, `ITEM:0` for not liked, separated by commas.
Recent parse_recent(const std::string& text, bool strings);
Id parse_id(const nlohmann::json& value, bool strings, const char* kind);
nlohmann::ordered_json to_json(const Id& id);
// For a message: 7, or 'seven'.
std::string quote_id(const Id& id);

void add_recent(Request& request, const Recent& recent);

// Adds what `NAME=VALUE` says to a request's context. Throws Failure for another form.
void add_context(Request& request, const std::string& text);
// Adds an object of strings and numbers, by name. Throws Failure for other values.
void add_context(Request& request, const nlohmann::json& value);

// Adds the request text of `NAME=TOKENS`, token ids separated by commas. Throws Failure for another form.
void add_request_text(Request& request, const std::string& text);
// Adds an object of arrays of token ids, by name. Throws Failure for other values.
void add_request_texts(Request& request, const nlohmann::json& value);

}  // namespace rexit::program

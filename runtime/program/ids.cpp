#include "ids.hpp"

#include <charconv>
#include <cstdint>
#include <string_view>

#include "failure.hpp"

namespace rexit::program {

namespace {

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  return begin == text.npos ? std::string_view{} : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The non-empty parts between commas.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (const auto part = trimmed(std::string_view(text).substr(begin, end - begin)); !part.empty()) parts.emplace_back(part);
    begin = end + 1;
  }
  return parts;
}

}  // namespace

Id parse_id(const std::string& text, bool strings, const char* kind) {
  if (strings) return text;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || std::to_string(number) != text)
    throw Failure(std::string(kind) + " '" + text + "': this catalog's " + kind +
                  " ids are 64-bit integers, written like 7 or -12");
  return number;
}

std::vector<Id> parse_ids(const std::string& text, bool strings, const char* kind) {
  std::vector<Id> ids;
  for (const std::string& part : split(text)) ids.push_back(parse_id(part, strings, kind));
  if (ids.empty()) throw Failure(std::string("no ") + kind + "s given, expected at least one id");
  return ids;
}

Recent parse_recent(const std::string& text, bool strings) {
  Recent recent;
  for (const std::string& part : split(text)) {
    const std::size_t size = part.size();
    const bool has_verdict = size >= 2 && part[size - 2] == ':' && (part[size - 1] == '0' || part[size - 1] == '1');
    recent.emplace_back(parse_id(has_verdict ? part.substr(0, size - 2) : part, strings, "item"),
                        !has_verdict || part[size - 1] == '1');
  }
  return recent;
}

Id parse_id(const nlohmann::json& value, bool strings, const char* kind) {
  if (strings && value.is_string()) {
    auto text = value.get<std::string>();
    if (text.find('\0') != text.npos) throw Failure(std::string(kind) + " " + value.dump() + ": an id has no NUL character");
    return text;
  }
  if (!strings && value.is_number_integer() &&
      !(value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{INT64_MAX}))
    return value.get<std::int64_t>();
  throw Failure(std::string(kind) + " " + (value.is_structured() ? value.type_name() : value.dump()) + ": this catalog's " +
                kind + " ids are " + (strings ? "strings" : "64-bit integers"));
}

nlohmann::ordered_json to_json(const Id& id) {
  return std::visit([](const auto& value) -> nlohmann::ordered_json { return value; }, id);
}

std::string quote_id(const Id& id) {
  const auto* text = std::get_if<std::string>(&id);
  return text != nullptr ? "'" + *text + "'" : std::to_string(std::get<std::int64_t>(id));
}

void add_recent(Request& request, const Recent& recent) {
  std::vector<Id> items;
  std::vector<std::uint8_t> liked;
  for (const auto& [item, verdict] : recent) {
    items.push_back(item);
    liked.push_back(verdict ? 1 : 0);
  }
  request.recent(std::move(items), std::move(liked));
}

void add_context(Request& request, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == text.npos || equals == 0) throw Failure("context '" + text + "', expected NAME=VALUE, as in device=tv");
  request.context(text.substr(0, equals), text.substr(equals + 1));
}

void add_context(Request& request, const nlohmann::json& value) {
  if (!value.is_object()) throw Failure(std::string("context is ") + value.type_name() + ", expected an object");
  for (const auto& [name, entry] : value.items()) {
    const bool has_nul = name.find('\0') != name.npos || (entry.is_string() && entry.get<std::string>().find('\0') != name.npos);
    if (has_nul) throw Failure("context has a NUL character, expected none");
    if (entry.is_string()) {
      request.context(name, entry.get<std::string>());
    } else if (entry.is_number_integer()) {
      request.context(name, entry.dump());  // exact, where a double is not
    } else if (entry.is_number()) {
      request.context(name, entry.get<double>());
    } else {
      throw Failure("context '" + name + "' is " + entry.type_name() + ", expected a string or a number");
    }
  }
}

void add_request_text(Request& request, const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::string quoted = "request '" + text + "', expected NAME=TOKENS, as in query=17,4,9";
  if (equals == text.npos || equals == 0) throw Failure(quoted);
  std::vector<std::int32_t> tokens;
  for (const std::string& part : split(text.substr(equals + 1))) {
    std::int32_t token = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), token);
    if (error != std::errc{} || end != part.data() + part.size()) throw Failure(quoted);
    tokens.push_back(token);
  }
  request.text(text.substr(0, equals), std::move(tokens));
}

void add_request_texts(Request& request, const nlohmann::json& value) {
  if (!value.is_object()) throw Failure(std::string("request is ") + value.type_name() + ", expected an object");
  for (const auto& [name, entry] : value.items()) {
    if (name.find('\0') != name.npos) throw Failure("request has a NUL character in a name, expected none");
    const std::string quoted = "request '" + name + "'";
    if (entry.is_string()) throw Failure(quoted + " is a text, expected an array of token ids: this program has no tokenizer");
    if (!entry.is_array()) throw Failure(quoted + " is " + entry.type_name() + ", expected an array of token ids");
    std::vector<std::int32_t> tokens;
    for (const nlohmann::json& token : entry) {
      if (!token.is_number_integer() || (token.is_number_unsigned() && token.get<std::uint64_t>() > std::uint64_t{INT32_MAX}) ||
          (!token.is_number_unsigned() && token.get<std::int64_t>() < INT32_MIN))
        throw Failure(quoted + " has " + (token.is_structured() ? token.type_name() : token.dump()) + ", expected token ids");
      tokens.push_back(token.get<std::int32_t>());
    }
    request.text(name, std::move(tokens));
  }
}

}  // namespace rexit::program

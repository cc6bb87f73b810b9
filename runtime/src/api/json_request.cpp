// clang-format off
#include "files/older_strtoll.hpp"
// clang-format on

#include "api/json_request.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "api/c_struct.hpp"
#include "api/request.hpp"
#include "base/platform.hpp"
#include "bundle/catalog/inputs.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

// A value takes up to 16 bytes: far more candidates than a slate has in practice.
constexpr std::size_t max_values = std::size_t{1} << 18;
constexpr double max_deadline_ms = 1e12;
constexpr char id_expected[] = "a 64-bit integer or a string", token_expected[] = "a token id";

enum class Field { id, user, items, recent, as_of, inputs, prefix, candidates, scores, top_k, deadline_ms, force_exit };

struct FieldInfo {
  const char* name;
  const char* expected;
};

// By Field.
constexpr FieldInfo fields[] = {{"id", "a string or a number"},
                                {"user", id_expected},
                                {"items", "an array of ids"},
                                {"recent", "an array of ITEM, [ITEM, true] or [ITEM, false]"},
                                {"as_of", "a 64-bit integer"},
                                {"inputs", "an object of values by name"},
                                {"prefix", "an array of token ids"},
                                {"candidates", "an array of arrays of token ids"},
                                {"scores", "an array of numbers"},
                                {"top_k", "an integer from 0 to 2147483647"},
                                {"deadline_ms", "a number above 0 and at most 1e12"},
                                {"force_exit", "an integer from 0 to 2147483647"}};

Field field_of(const std::string& key) {
  for (std::size_t i = 0; i < std::size(fields); ++i)
    if (key == fields[i].name) return static_cast<Field>(i);
  std::string known;
  for (const FieldInfo& field : fields) known += (&field == fields ? "" : ", ") + std::string(field.name);
  fail(REXIT_INVALID_ARGUMENT, shortened(key), ": a request has no such field, it has: ", known);
}

// A string, a number, true, false or null.
struct Scalar {
  enum class Kind { null, boolean, integer, number, string } kind;
  std::string_view text;     // of a string: its characters; otherwise as in the JSON
  std::int64_t integer = 0;  // of a boolean: 0 or 1
  double number = 0;

  bool is(Kind other) const noexcept { return kind == other; }
  std::string seen() const { return is(Kind::string) ? quoted(text) : shortened(text); }
};

}  // namespace

// Receives the values from nlohmann's parser, in the order of the text.
class JsonRequest::Reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Reader(JsonRequest& request) : to_(request) {}

  bool null() override { return take({Scalar::Kind::null, "null"}); }
  bool boolean(bool value) override { return take({Scalar::Kind::boolean, value ? "true" : "false", value ? 1 : 0}); }
  bool number_integer(number_integer_t value) override { return take_integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value <= number_unsigned_t{INT64_MAX}) return take_integer(static_cast<std::int64_t>(value));
    return take({Scalar::Kind::number, std::to_string(value), 0, static_cast<double>(value)});
  }
  bool number_float(number_float_t value, const string_t& text) override { return take({Scalar::Kind::number, text, 0, value}); }
  bool string(string_t& value) override { return take({Scalar::Kind::string, value}); }
  bool binary(binary_t&) override { return false; }  // not in JSON

  bool start_object(std::size_t) override {
    count();
    if (place_ == Place::document) return enter(Place::request);
    if (place_ == Place::request && field_ == Field::inputs) return enter(Place::inputs);
    refuse("an object");
  }
  bool end_object() override {
    if (place_ == Place::request) return enter(Place::document);
    std::vector<std::string_view>& names = to_.input_names_;
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) fail(REXIT_INVALID_ARGUMENT, "inputs.", shortened(*twice), " appears twice in the request");
    return enter(Place::request);
  }
  bool key(string_t& key) override {
    if (place_ == Place::inputs) {
      to_.input_names_.push_back(keep(key, [] { return std::string("the name of an input"); }));
      return true;
    }
    field_ = field_of(key);
    const unsigned bit = 1u << static_cast<unsigned>(field_);
    if ((fields_seen_ & bit) != 0) fail(REXIT_INVALID_ARGUMENT, key, " appears twice in the request");
    fields_seen_ |= bit;
    return true;
  }
  bool start_array(std::size_t) override {
    count();
    if (place_ == Place::recent) return enter(Place::verdict);
    if (place_ == Place::candidates) {
      to_.candidate_counts_.push_back(0);
      return enter(Place::candidate);
    }
    if (place_ == Place::inputs) {
      add_input({}, to_.input_tokens_.size());
      return enter(Place::input_tokens);
    }
    if (place_ != Place::request) refuse("an array");
    switch (field_) {
      case Field::items:
        return enter(Place::items);
      case Field::recent:
        return enter(Place::recent);
      case Field::prefix:
        return enter(Place::prefix);
      case Field::candidates:
        return enter(Place::candidates);
      case Field::scores:
        return enter(Place::scores);
      default:
        refuse("an array");
    }
  }
  bool end_array() override {
    switch (place_) {
      case Place::verdict:
        if (entries_in_pair_ != 2) refuse_pair("fewer");
        entries_in_pair_ = 0;
        return enter(Place::recent);
      case Place::input_tokens:
        return enter(Place::inputs);
      case Place::candidate:
        return enter(Place::candidates);
      default:
        return enter(Place::request);
    }
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    const std::string_view text = error.what();  // "[json.exception.parse_error.101] parse error at line 1, …"
    fail(REXIT_INVALID_ARGUMENT, "not valid JSON: ", text.substr(std::min(text.size(), text.find("] ") + 2)));
  }

  bool has(Field field) const noexcept { return (present_ >> static_cast<unsigned>(field) & 1u) != 0; }

 private:
  // What encloses the next value.
  enum class Place { document, request, items, recent, verdict, inputs, input_tokens, prefix, candidates, candidate, scores };

  bool enter(Place place) {
    if (place_ == Place::request && place != Place::document) present_ |= 1u << static_cast<unsigned>(field_);
    place_ = place;
    return true;
  }

  void count() {
    if (++values_ > max_values)
      fail(REXIT_INVALID_ARGUMENT, "the request has more than ", max_values, " values, the most allowed");
  }

  bool take_integer(std::int64_t value) {
    const std::string text = std::to_string(value);
    return take({Scalar::Kind::integer, text, value, static_cast<double>(value)});
  }

  bool take(const Scalar& value) {
    count();
    switch (place_) {
      case Place::document:
        refuse(value.seen());
      case Place::request:
        if (!value.is(Scalar::Kind::null)) take_field(value);
        return true;
      case Place::items:
        to_.items_.push_back(id(value));
        return true;
      case Place::recent:
        to_.recent_.push_back(id(value));
        to_.liked_.push_back(1);
        return true;
      case Place::verdict:
        take_in_pair(value);
        return true;
      case Place::inputs:
        take_input(value);
        return true;
      case Place::input_tokens:
        to_.input_tokens_.push_back(token(value));
        ++to_.inputs_.back().token_count;
        return true;
      case Place::prefix:
        to_.prefix_.push_back(token(value));
        return true;
      case Place::candidates:
        refuse(value.seen());
      case Place::candidate:
        to_.candidate_tokens_.push_back(token(value));
        ++to_.candidate_counts_.back();
        return true;
      case Place::scores:
        if (!(value.is(Scalar::Kind::integer) || value.is(Scalar::Kind::number))) refuse(value.seen());
        to_.scores_.push_back(static_cast<float>(value.number));
        return true;
    }
    return false;
  }

  void take_field(const Scalar& value) {
    present_ |= 1u << static_cast<unsigned>(field_);
    rexit_request& request = to_.request_;
    switch (field_) {
      case Field::id:
        if (value.is(Scalar::Kind::boolean)) refuse(value.seen());
        to_.id_ = value.is(Scalar::Kind::string) ? nlohmann::json(value.text).dump() : std::string(value.text);
        return;
      case Field::user:
        to_.user_ = id(value);
        return;
      case Field::as_of:
        request.has_as_of = 1;
        request.as_of = integer(value, INT64_MIN, INT64_MAX);
        return;
      case Field::top_k:
        request.top_k = static_cast<std::size_t>(integer(value, 0, INT32_MAX));
        return;
      case Field::deadline_ms:
        if (!(value.is(Scalar::Kind::integer) || value.is(Scalar::Kind::number)) ||
            !(value.number > 0 && value.number <= max_deadline_ms))
          refuse(value.seen());
        request.deadline_us = std::max<std::int64_t>(1, std::llround(value.number * 1000));
        return;
      case Field::force_exit:
        request.has_force_exit = 1;
        request.force_exit = static_cast<std::uint32_t>(integer(value, 0, INT32_MAX));
        return;
      default:
        refuse(value.seen());
    }
  }

  void take_in_pair(const Scalar& value) {
    if (entries_in_pair_ == 0)
      to_.recent_.push_back(id(value));
    else if (entries_in_pair_ == 1 && value.is(Scalar::Kind::boolean))
      to_.liked_.push_back(static_cast<std::uint8_t>(value.integer));
    else
      refuse(value.seen());
    ++entries_in_pair_;
  }

  void take_input(const Scalar& value) {
    rexit_input input{};
    switch (value.kind) {
      case Scalar::Kind::null:
        return;
      case Scalar::Kind::boolean:
        refuse(value.seen());
      case Scalar::Kind::string:
        input.text = keep(value.text, [this] { return path(); }).data();
        break;
      case Scalar::Kind::integer:
      case Scalar::Kind::number:
        input.number = value.number;
    }
    add_input(input, 0);
  }

  void add_input(rexit_input input, std::size_t tokens_at) {
    input.name = to_.input_names_.back().data();
    to_.inputs_.push_back(input);
    to_.input_tokens_at_.push_back(tokens_at);
  }

  rexit_id id(const Scalar& value) {
    if (value.is(Scalar::Kind::integer)) return {value.integer, nullptr};
    if (!value.is(Scalar::Kind::string)) refuse(value.seen());
    return {0, keep(value.text, [this] { return path(); }).data()};
  }

  std::int32_t token(const Scalar& value) { return static_cast<std::int32_t>(integer(value, INT32_MIN, INT32_MAX)); }

  std::int64_t integer(const Scalar& value, std::int64_t low, std::int64_t high) {
    if (!value.is(Scalar::Kind::integer) || value.integer < low || value.integer > high) refuse(value.seen());
    return value.integer;
  }

  // Copies a string. `where()`: its path, for messages.
  template <class Where>
  std::string_view keep(std::string_view text, const Where& where) {
    if (text.find('\0') != text.npos) fail(REXIT_INVALID_ARGUMENT, where(), " has a NUL, expected text without one");
    const char* begin = to_.texts_.data() + to_.texts_.size();
    to_.texts_.append(text).push_back('\0');
    return {begin, text.size()};
  }

  // The path of the value that is being read.
  std::string path() const {
    const auto indexed = [](const char* list, std::size_t index) {
      return std::string(list) + "[" + std::to_string(index) + "]";
    };
    switch (place_) {
      case Place::document:
        return "the request";
      case Place::request:
        return fields[static_cast<std::size_t>(field_)].name;
      case Place::items:
        return indexed("items", to_.items_.size());
      case Place::recent:
        return indexed("recent", to_.recent_.size());
      case Place::verdict: {
        const std::size_t done = to_.liked_.size();
        return indexed("recent", done) + (to_.recent_.size() == done ? "[0]" : "[1]");
      }
      case Place::inputs:
        return "inputs." + shortened(to_.input_names_.back());
      case Place::input_tokens:
        return "inputs." + indexed(shortened(to_.input_names_.back()).c_str(), to_.inputs_.back().token_count);
      case Place::prefix:
        return indexed("prefix", to_.prefix_.size());
      case Place::candidates:
        return indexed("candidates", to_.candidate_counts_.size());
      case Place::candidate:
        return indexed("candidates", to_.candidate_counts_.size() - 1) + "[" + std::to_string(to_.candidate_counts_.back()) + "]";
      case Place::scores:
        return indexed("scores", to_.scores_.size());
    }
    return {};
  }

  const char* expected() const {
    switch (place_) {
      case Place::document:
        return "an object";
      case Place::request:
        return fields[static_cast<std::size_t>(field_)].expected;
      case Place::items:
        return id_expected;
      case Place::recent:
        return "ITEM, [ITEM, true] or [ITEM, false]";
      case Place::verdict:
        return to_.recent_.size() == to_.liked_.size() ? id_expected : "true or false";
      case Place::inputs:
        return "a string, a number or an array of token ids";
      case Place::candidates:
        return "an array of token ids";
      case Place::input_tokens:
      case Place::prefix:
      case Place::candidate:
        return token_expected;
      case Place::scores:
        return "a number";
    }
    return "";
  }

  [[noreturn]] void refuse(std::string_view seen) const {
    if (place_ == Place::verdict && entries_in_pair_ == 2) refuse_pair("more");
    fail(REXIT_INVALID_ARGUMENT, path(), " is ", seen, ", expected ", expected());
  }

  [[noreturn]] void refuse_pair(const char* length) const {
    const std::size_t index = to_.liked_.size() - (entries_in_pair_ == 2 ? 1 : 0);
    fail(REXIT_INVALID_ARGUMENT, "recent[", index, "] has ", length,
         " than 2 values, expected ITEM, [ITEM, true] or [ITEM, false]");
  }

  JsonRequest& to_;
  Place place_ = Place::document;
  Field field_{};
  unsigned fields_seen_ = 0;  // bits, by Field
  unsigned present_ = 0;      // likewise, those that are not null
  std::size_t values_ = 0;
  std::size_t entries_in_pair_ = 0;
};

void JsonRequest::read(std::string_view text) {
  if (text.size() > max_json_bytes)
    fail(REXIT_INVALID_ARGUMENT, "the request has ", text.size(), " bytes, expected at most ", max_json_bytes);
  // nlohmann's parser skips a byte order mark, and whatever is behind a NUL.
  if (text.substr(0, 3) == "\xef\xbb\xbf") fail(REXIT_INVALID_ARGUMENT, "not valid JSON: it begins with a byte order mark");
  if (const std::size_t nul = text.find('\0'); nul != text.npos)
    fail(REXIT_INVALID_ARGUMENT, "not valid JSON: byte ", nul + 1, " is a NUL");
  request_ = {};
  request_.struct_size = sizeof request_;
  id_.clear();
  texts_.clear();
  texts_.reserve(text.size());  // so that pointers into it stay valid
  items_.clear();
  recent_.clear();
  liked_.clear();
  inputs_.clear();
  input_names_.clear();
  input_tokens_at_.clear();
  input_tokens_.assign(1, 0);  // so that it has an address without tokens
  prefix_.clear();
  candidate_tokens_.clear();
  candidate_counts_.clear();
  scores_.clear();

  const platform::CLocale c_locale;  // nlohmann's lexer reads numbers with strtod
  Reader reader(*this);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  for (std::size_t i = 0; i < inputs_.size(); ++i)
    if (input_tokens_at_[i] != 0) inputs_[i].tokens = input_tokens_.data() + input_tokens_at_[i];
  request_.id_size = sizeof(rexit_id);
  request_.input_size = sizeof(rexit_input);
  if (reader.has(Field::prefix) || reader.has(Field::candidates)) {
    candidate_tokens_.reserve(1);  // so that they have an address even if there are none
    tokens_ = {sizeof tokens_,           prefix_.data(),           prefix_.size(),
               candidate_tokens_.data(), candidate_counts_.data(), candidate_counts_.size()};
    request_.tokens = &tokens_;
  }
  if (reader.has(Field::user)) request_.user = &user_;
  request_.items = items_.data();
  request_.item_count = items_.size();
  request_.recent_items = recent_.data();
  request_.recent_liked = liked_.data();
  request_.recent_count = recent_.size();
  request_.inputs = inputs_.data();
  request_.input_count = inputs_.size();
  if (!reader.has(Field::scores)) return;
  const bool by_tokens = request_.tokens != nullptr;
  const std::size_t candidates = by_tokens ? candidate_counts_.size() : items_.size();
  if (scores_.size() != candidates)
    fail(REXIT_INVALID_ARGUMENT, "scores has ", scores_.size(), " numbers, expected one for each of ",
         by_tokens ? "candidates" : "items", ", ", candidates);
  scores_.reserve(1);  // so that they have an address even if there are none
  request_.scores = scores_.data();
}

void JsonRequest::set_texts(const rexit_input* texts, std::size_t count, std::size_t entry_size) {
  if (count == 0) return;
  required(texts, "options.texts");
  check_entry_size<rexit_input>(entry_size, first_input_size, "options.input_size");
  for (std::size_t i = 0; i < count; ++i) {
    const Position position{"options.texts", i};
    const rexit_input text = read_entry(texts, i, entry_size, position);
    const std::string_view name = required(text.name, "options.texts.name");
    required(text.tokens, "options.texts.tokens");
    const auto match = std::find_if(inputs_.begin(), inputs_.end(),
                                    [&](const rexit_input& input) { return input.text != nullptr && name == input.name; });
    if (match == inputs_.end())
      fail(REXIT_INVALID_ARGUMENT, position.text(), ": the request has no text `", shortened(name), "`");
    match->text = nullptr;
    match->tokens = text.tokens;
    match->token_count = text.token_count;
  }
}

void JsonRequest::trim(std::size_t max_bytes) noexcept {
  if (memory() <= max_bytes) return;
  JsonRequest empty;  // swapped: a string to which an empty one is assigned keeps its memory
  std::swap(*this, empty);
}

std::size_t JsonRequest::memory() const noexcept {
  const auto bytes = [](const auto&... lists) { return (... + (lists.capacity() * sizeof(*lists.data()))); };
  return bytes(id_, texts_, items_, recent_, liked_, inputs_, input_names_, input_tokens_at_, input_tokens_, prefix_,
               candidate_tokens_, candidate_counts_, scores_);
}

}  // namespace rexit::core

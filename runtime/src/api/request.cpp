// clang-format off
#include "files/older_strtoll.hpp"
// clang-format on

#include "api/request.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "api/json_text.hpp"
#include "base/platform.hpp"
#include "base/status.hpp"
#include "bundle/catalog/inputs.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

constexpr double max_deadline_ms = 1e12;
constexpr std::size_t values_per_check = 4096;
static_assert(max_request_candidates == 10'000, "which a message below says");
constexpr char id_expected[] = "a 64-bit integer or a string", token_expected[] = "a token id",
               recent_expected[] = "ITEM, [ITEM, true] or [ITEM, false]";

enum class Field {
  user,
  items,
  retrieve,
  recent,
  as_of,
  inputs,
  scores,
  prefix,
  candidates,
  query,
  documents,
  top_k,
  floor,
  deadline_ms,
  force_exit,
  id
};

struct FieldInfo {
  const char* name;
  const char* expected;
};

// By Field.
constexpr FieldInfo fields[] = {{"user", id_expected},
                                {"items", "an array of ids"},
                                {"retrieve", "an integer from 1 to 10000"},
                                {"recent", "an array of ITEM, [ITEM, true] or [ITEM, false]"},
                                {"as_of", "a 64-bit integer"},
                                {"inputs", "an object of values by name"},
                                {"scores", "an object of arrays of numbers by name"},
                                {"prefix", "an array of token ids"},
                                {"candidates", "an array of arrays of token ids"},
                                {"query", "a string"},
                                {"documents", "an array of strings"},
                                {"top_k", "an integer from 0 to 2147483647"},
                                {"floor", "true or false"},
                                {"deadline_ms", "a number above 0 and at most 1e12"},
                                {"force_exit", "an integer from 0 to 2147483647"},
                                {"id", "a string or a number"}};
constexpr Field catalog_fields[] = {Field::user, Field::items, Field::retrieve, Field::recent, Field::as_of, Field::inputs};

constexpr unsigned bit(Field field) noexcept { return 1u << static_cast<unsigned>(field); }
const char* name_of(Field field) noexcept { return fields[static_cast<std::size_t>(field)].name; }

Field field_of(const std::string& key) {
  for (std::size_t i = 0; i < std::size(fields); ++i)
    if (key == fields[i].name) return static_cast<Field>(i);
  std::string known;
  for (const FieldInfo& field : fields) known += (&field == fields ? "" : ", ") + std::string(field.name);
  fail(REXIT_INVALID_ARGUMENT, shortened(key), ": a request has no such field, it has: ", known);
}

std::string indexed(std::string_view list, std::size_t index) { return std::string(list) + "[" + std::to_string(index) + "]"; }

// A string, a number, true, false or null.
struct Scalar {
  enum class Kind { null, boolean, integer, number, string } kind;
  std::string_view text;     // of a string: its characters; otherwise as in the JSON
  std::int64_t integer = 0;  // of a boolean: 0 or 1
  double number = 0;

  bool is(Kind other) const noexcept { return kind == other; }
  bool is_number() const noexcept { return is(Kind::integer) || is(Kind::number); }
  std::string shown() const { return is(Kind::string) ? quoted(text) : shortened(text); }  // for messages
};

void check_exit(std::size_t exit, const Bundle& bundle) {
  if (exit >= bundle.exits())
    fail(REXIT_INVALID_ARGUMENT, "force_exit is ", exit, ", the bundle has exits 0 to ", bundle.exits() - 1);
}

// Receives the values from nlohmann's parser, in the order of the text.
class Reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Reader(const Bundle& bundle, Request& request, const ReadLimits& limits)
      : bundle_(bundle),
        to_(request),
        limits_(limits),
        deadline_(deadline_of(limits.deadline_us)),
        inputs_(bundle.program().inputs),
        has_input_(inputs_.size()),
        has_score_(request.scores.size()),
        score_arrays_(request.scores.size()) {}

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
    if (place_ == Place::document) return enter(Place::request);
    if (place_ == Place::request && field_ == Field::inputs) return enter(Place::inputs);
    if (place_ == Place::request && field_ == Field::scores) return enter(Place::scores);
    refuse("an object");
  }
  bool end_object() override { return enter(place_ == Place::request ? Place::document : Place::request); }
  bool key(string_t& key) override {
    if (place_ == Place::inputs || place_ == Place::scores) {
      place_ == Place::inputs ? begin_input(key) : begin_score(key);
      return true;
    }
    field_ = field_of(key);
    if ((keys_ & bit(field_)) != 0) fail(REXIT_INVALID_ARGUMENT, key, " appears twice in the request");
    keys_ |= bit(field_);
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::recent) {
      pair_size_ = 0;
      return enter(Place::verdict);
    }
    if (place_ == Place::candidates) {
      check_count(to_.tokens.counts.size());
      to_.tokens.counts.push_back(0);
      return enter(Place::candidate);
    }
    if (place_ == Place::inputs) {
      if (!input().is_text()) input().refuse("token ids");
      return enter(Place::input_tokens);
    }
    if (place_ == Place::scores) {
      score_arrays_[score_] = true;
      return enter(Place::score);
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
      case Field::documents:
        return enter(Place::documents);
      default:
        refuse("an array");
    }
  }
  bool end_array() override {
    switch (place_) {
      case Place::verdict:
        if (pair_size_ != 2) refuse_pair("fewer");
        return enter(Place::recent);
      case Place::input_tokens:
        input().check_tokens(codes(), bundle_.text_vocabulary());
        return enter(Place::inputs);
      case Place::candidate:
        return enter(Place::candidates);
      case Place::score:
        return enter(Place::scores);
      default:
        return enter(Place::request);
    }
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    const std::string_view text = error.what();  // "[json.exception.parse_error.101] parse error at line 1, …"
    fail(REXIT_INVALID_ARGUMENT, "not valid JSON: ", text.substr(std::min(text.size(), text.find("] ") + 2)));
  }

  // Call at the end: what is missing, and what does not go together.
  void check() {
    if (has(Field::query) || has(Field::documents)) join_texts();
    to_.by_tokens = has(Field::prefix) || has(Field::candidates) || has(Field::documents);
    if (to_.by_tokens)
      check_tokens();
    else
      check_query();
    check_scores();
    if (to_.floor) check_floor();
  }

 private:
  // What encloses the next value.
  enum class Place {
    document,
    request,
    items,
    recent,
    verdict,
    inputs,
    input_tokens,
    prefix,
    candidates,
    candidate,
    documents,
    scores,
    score
  };

  bool has(Field field) const noexcept { return (present_ & bit(field)) != 0; }

  bool enter(Place place) {
    if (place_ == Place::request && place != Place::document) begin_field();
    place_ = place;
    return true;
  }

  // Call before the field's value, which is not null, is taken.
  void begin_field() {
    present_ |= bit(field_);
    if (!bundle_.has_catalog() && std::count(std::begin(catalog_fields), std::end(catalog_fields), field_) != 0)
      fail(REXIT_INVALID_ARGUMENT, name_of(field_),
           " is set, but the bundle has no catalog: it takes token ids, not ids of users and items");
    if ((field_ == Field::query || field_ == Field::documents) && bundle_.word_pieces() == nullptr)
      fail(REXIT_INVALID_ARGUMENT, name_of(field_),
           " is set, but the bundle has no word_pieces.safetensors: it takes token ids, not texts");
    if (field_ == Field::query || field_ == Field::documents) bundle_.word_pieces()->check_unchanged();
  }

  void begin_input(std::string_view name) {
    const auto match = std::find_if(inputs_.begin(), inputs_.end(), [&](const Input& input) { return input.name() == name; });
    if (match == inputs_.end()) {
      std::string known = inputs_.empty() ? "it has none" : "it has: ";
      for (const Input& input : inputs_) known += (&input == &inputs_.front() ? "" : ", ") + input.name();
      fail(REXIT_INVALID_ARGUMENT, "inputs.", shortened(name), ": the prompt has no such input, ", known);
    }
    input_ = static_cast<std::size_t>(match - inputs_.begin());
    if (has_input_[input_]) fail(REXIT_INVALID_ARGUMENT, "inputs.", shortened(name), " appears twice in the request");
    has_input_[input_] = true;
  }

  void begin_score(std::string_view name) {
    const std::vector<std::string>& names = bundle_.program().scores;
    score_ = static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    if (score_ == names.size())
      fail(REXIT_INVALID_ARGUMENT, "scores.", shortened(name), ": exit zero reads no such score, it reads ", score_names());
    if (has_score_[score_]) fail(REXIT_INVALID_ARGUMENT, "scores.", shortened(name), " appears twice in the request");
    has_score_[score_] = true;
  }

  std::string score_names() const {
    std::string list;
    for (const std::string& name : bundle_.program().scores) list += (list.empty() ? "" : ", ") + name;
    return list.empty() ? "none" : list;
  }

  const Input& input() const noexcept { return inputs_[input_]; }
  std::vector<float>& score() const noexcept { return to_.scores[score_]; }
  Codes& codes() const noexcept { return to_.query.inputs[input_]; }

  bool take_integer(std::int64_t value) {
    const std::string text = std::to_string(value);
    return take({Scalar::Kind::integer, text, value, static_cast<double>(value)});
  }

  Deadline deadline_of(std::int64_t deadline_us) const {
    // A deadline that passed while the request waited is refused when the options are applied.
    return {limits_.start, deadline_us == 0 ? 0 : std::max<std::int64_t>(1, deadline_us - limits_.waited_us), limits_.cancelled};
  }

  // Before another candidate is read, of which there are `count`.
  void check_count(std::size_t count) const {
    if (count >= max_request_candidates)
      fail(REXIT_INVALID_ARGUMENT, name_of(field_), " has more than ", max_request_candidates,
           " candidates, the most of a request");
  }

  bool take(const Scalar& value) {
    if (++values_ % values_per_check == 0) deadline_.check("reading the request");
    Query& query = to_.query;
    switch (place_) {
      case Place::document:
      case Place::candidates:
        refuse(value.shown());
      case Place::request:
        if (!value.is(Scalar::Kind::null)) take_field(value);
        return true;
      case Place::items:
        check_count(query.items.size());
        query.items.push_back(item(value));
        return true;
      case Place::recent:
        query.recent.push_back({item(value), true});
        return true;
      case Place::verdict:
        take_in_pair(value);
        return true;
      case Place::inputs:
        take_input(value);
        return true;
      case Place::input_tokens:
        codes().push_back(token(value));
        return true;
      case Place::prefix:
        to_.tokens.prefix.push_back(token(value));
        return true;
      case Place::candidate:
        to_.tokens.candidates.push_back(token(value));
        ++to_.tokens.counts.back();
        return true;
      case Place::documents:
        if (!value.is(Scalar::Kind::string)) refuse(value.shown());
        check_count(to_.texts.ends.size());
        bundle_.word_pieces()->append(value.text, to_.texts, deadline_);
        return true;
      case Place::scores:
        if (!value.is(Scalar::Kind::null)) refuse(value.shown());
        return true;
      case Place::score:
        take_score(value);
        return true;
    }
    return false;
  }

  void take_score(const Scalar& value) {
    const bool is_missing = value.is(Scalar::Kind::null);
    if (!is_missing && !value.is_number()) refuse(value.shown());
    const float number = is_missing ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(value.number);
    if (std::isinf(number)) fail(REXIT_INVALID_ARGUMENT, path(), " is ", number, ", expected a finite number or null");
    score().push_back(number);
  }

  void take_field(const Scalar& value) {
    begin_field();
    switch (field_) {
      case Field::id:
        if (value.is(Scalar::Kind::boolean)) refuse(value.shown());
        append_scalar(value, to_.id);
        return;
      case Field::user:
        to_.query.user = row(bundle_.catalog().users.ids, value);
        append_scalar(value, to_.user);
        return;
      case Field::query:
        if (!value.is(Scalar::Kind::string)) refuse(value.shown());
        bundle_.word_pieces()->append(value.text, query_, deadline_);
        return;
      case Field::retrieve:
        to_.query.retrieve = static_cast<std::size_t>(integer(value, 1, max_request_candidates));
        return;
      case Field::as_of:
        to_.query.as_of = integer(value, INT64_MIN, INT64_MAX);
        return;
      case Field::top_k:
        to_.top_k = static_cast<std::size_t>(integer(value, 0, INT32_MAX));
        return;
      case Field::floor:
        if (!value.is(Scalar::Kind::boolean)) refuse(value.shown());
        to_.floor = value.integer != 0;
        return;
      case Field::deadline_ms:
        if (!value.is_number() || !(value.number > 0 && value.number <= max_deadline_ms)) refuse(value.shown());
        to_.deadline_us = std::max<std::int64_t>(1, std::llround(value.number * 1000));
        deadline_ = deadline_of(to_.deadline_us);
        return;
      case Field::force_exit:
        to_.force_exit = static_cast<std::size_t>(integer(value, 0, INT32_MAX));
        check_exit(*to_.force_exit, bundle_);
        return;
      default:
        refuse(value.shown());
    }
  }

  static void append_scalar(const Scalar& value, std::string& to) {
    if (value.is(Scalar::Kind::string))
      append_string(value.text, to);
    else
      to += value.text;
  }

  void take_in_pair(const Scalar& value) {
    std::vector<Interaction>& recent = to_.query.recent;
    if (pair_size_ == 0)
      recent.push_back({item(value), true});
    else if (pair_size_ == 1 && value.is(Scalar::Kind::boolean))
      recent.back().liked = value.integer != 0;
    else
      refuse(value.shown());
    ++pair_size_;
  }

  void take_input(const Scalar& value) {
    switch (value.kind) {
      case Scalar::Kind::null:
        return;
      case Scalar::Kind::boolean:
        refuse(value.shown());
      case Scalar::Kind::string:
        return input().encode(value.text, codes());
      case Scalar::Kind::integer:
      case Scalar::Kind::number:
        return input().encode(value.number, codes());
    }
  }

  // Nullopt: the catalog has no such id.
  std::optional<Row> row(const Ids& ids, const Scalar& value) const {
    if (!value.is(Scalar::Kind::integer) && !value.is(Scalar::Kind::string)) refuse(value.shown());
    if (ids.are_strings() != value.is(Scalar::Kind::string))
      fail(REXIT_INVALID_ARGUMENT, path(), " is ", value.shown(), ", the catalog's ids are ",
           ids.are_strings() ? "strings" : "integers");
    return ids.are_strings() ? ids.find(value.text) : ids.find(value.integer);
  }

  Row item(const Scalar& value) const {
    const std::optional<Row> match = row(bundle_.catalog().items.ids, value);
    if (!match)
      fail(REXIT_UNKNOWN_ITEM, path(), ": item ", value.shown(),
           " is not in the catalog; `rexit refresh` brings new items, a request cannot");
    return *match;
  }

  std::int32_t token(const Scalar& value) const { return static_cast<std::int32_t>(integer(value, INT32_MIN, INT32_MAX)); }

  std::int64_t integer(const Scalar& value, std::int64_t low, std::int64_t high) const {
    if (!value.is(Scalar::Kind::integer) || value.integer < low || value.integer > high) refuse(value.shown());
    return value.integer;
  }

  // Makes token ids of query and documents.
  void join_texts() {
    for (const Field field : {Field::prefix, Field::candidates})
      if (has(field))
        fail(REXIT_INVALID_ARGUMENT, name_of(field), " is set, but the request is texts: expected query and documents");
    if (!has(Field::query)) fail(REXIT_INVALID_ARGUMENT, "query is missing, expected a string");
    if (to_.texts.ends.empty()) fail(REXIT_INVALID_ARGUMENT, "documents is empty, expected at least one text");
    bundle_.word_pieces()->check_unchanged();  // nor while they were read
    std::size_t begin = 0;
    for (const std::size_t end : to_.texts.ends) {
      deadline_.check("reading the request");
      to_.tokens.counts.push_back(bundle_.word_pieces()->append_pair(
          query_.tokens.data(), query_.tokens.size(), to_.texts.tokens.data() + begin, end - begin, to_.tokens.candidates));
      const std::size_t whole = query_.tokens.size() + (end - begin) + bundle_.word_pieces()->special();
      to_.truncated.push_back(to_.tokens.counts.back() < whole ? 1 : 0);
      begin = end;
    }
  }

  void check_tokens() const {
    for (const Field field : catalog_fields)
      if (has(field))
        fail(REXIT_INVALID_ARGUMENT, name_of(field), " is set, but the request is token ids: expected either ids or token ids");
    if (bundle_.has_zero() && bundle_.has_catalog())
      fail(REXIT_INVALID_ARGUMENT, name_of(has(Field::candidates) ? Field::candidates : Field::prefix),
           " is set, but the bundle's exit zero reads its catalog: expected user and items");
    if (to_.tokens.counts.empty()) fail(REXIT_INVALID_ARGUMENT, "candidates is empty, expected at least one list of token ids");
  }

  void check_query() {
    if (!bundle_.has_catalog())
      fail(REXIT_INVALID_ARGUMENT, "candidates is empty, expected at least one list of token ids: the bundle has no catalog");
    if (!has(Field::user))
      fail(REXIT_INVALID_ARGUMENT, "user is missing, expected ",
           bundle_.catalog().users.ids.are_strings() ? "a string" : "an integer");
    if (has(Field::retrieve))
      check_retrieve();
    else if (to_.query.items.empty())
      fail(REXIT_INVALID_ARGUMENT, "items is empty, expected at least one id, or retrieve");
    for (input_ = 0; input_ < inputs_.size(); ++input_)
      if (codes().empty()) input().check_missing();
  }

  void check_retrieve() const {
    if (has(Field::items)) fail(REXIT_INVALID_ARGUMENT, "retrieve is set, and so is items: expected one of them");
    if (bundle_.reads_scores())
      fail(REXIT_INVALID_ARGUMENT, "retrieve is set, but exit zero reads the scores of a first stage: expected items and scores");
    if (const std::size_t items = bundle_.catalog().items.ids.size(); to_.query.retrieve > items)
      fail(REXIT_INVALID_ARGUMENT, "retrieve is ", to_.query.retrieve, ", the catalog has ", items, " items");
  }

  // The request must have scores exactly if exit zero reads them. Names that it does not have are missing.
  void check_scores() {
    if (has(Field::scores) && !bundle_.reads_scores())
      fail(REXIT_INVALID_ARGUMENT, "scores is set, but nothing reads it for such a request");
    const std::size_t candidates = to_.candidates();
    for (score_ = 0; score_ < to_.scores.size(); ++score_)
      if (!score_arrays_[score_])
        score().assign(candidates, std::numeric_limits<float>::quiet_NaN());
      else if (score().size() != candidates)
        fail(REXIT_INVALID_ARGUMENT, "scores.", bundle_.program().scores[score_], " has ", score().size(),
             " numbers, expected one for each of ",
             has(Field::documents) ? "documents"
             : to_.by_tokens       ? "candidates"
                                   : "items",
             ", ", candidates);
    if (bundle_.reads_scores() && std::count(score_arrays_.begin(), score_arrays_.end(), true) == 0)
      fail(REXIT_INVALID_ARGUMENT, has(Field::scores) ? "scores is empty" : "scores is missing",
           ", expected a number for each candidate: exit zero reads ", score_names());
  }

  void check_floor() const {
    if (has(Field::force_exit))
      fail(REXIT_INVALID_ARGUMENT, "floor is true, but force_exit is set: the floor is of candidates that the policy stops");
    if (bundle_.policy().floor == no_floor)
      fail(REXIT_INVALID_ARGUMENT,
           "floor is true, but the policy has no floor: `rexit calibrate --recall` finds one, if labels show one");
  }

  // The path of the value that is being read.
  std::string path() const {
    switch (place_) {
      case Place::document:
        return "the request";
      case Place::request:
        return name_of(field_);
      case Place::items:
        return indexed("items", to_.query.items.size());
      case Place::recent:
        return indexed("recent", to_.query.recent.size());
      case Place::verdict:
        return indexed(indexed("recent", to_.query.recent.size() - std::min<std::size_t>(pair_size_, 1)), pair_size_);
      case Place::inputs:
        return "inputs." + input().name();
      case Place::input_tokens:
        return "inputs." + indexed(input().name(), codes().size());
      case Place::prefix:
        return indexed("prefix", to_.tokens.prefix.size());
      case Place::candidates:
        return indexed("candidates", to_.tokens.counts.size());
      case Place::documents:
        return indexed("documents", to_.texts.ends.size());
      case Place::candidate:
        return indexed(indexed("candidates", to_.tokens.counts.size() - 1), to_.tokens.counts.back());
      case Place::scores:
        return "scores." + bundle_.program().scores[score_];
      case Place::score:
        return indexed("scores." + bundle_.program().scores[score_], score().size());
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
        return recent_expected;
      case Place::verdict:
        return pair_size_ == 0 ? id_expected : "true or false";
      case Place::inputs:
        return "a string, a number or an array of token ids";
      case Place::candidates:
        return "an array of token ids";
      case Place::documents:
        return "a string";
      case Place::input_tokens:
      case Place::prefix:
      case Place::candidate:
        return token_expected;
      case Place::scores:
        return "an array of numbers";
      case Place::score:
        return "a number or null";
    }
    return "";
  }

  [[noreturn]] void refuse(std::string_view shown) const {
    if (place_ == Place::verdict && pair_size_ == 2) refuse_pair("more");
    fail(REXIT_INVALID_ARGUMENT, path(), " is ", shown, ", expected ", expected());
  }

  [[noreturn]] void refuse_pair(const char* length) const {
    const std::size_t index = to_.query.recent.size() - std::min<std::size_t>(pair_size_, 1);
    fail(REXIT_INVALID_ARGUMENT, indexed("recent", index), " has ", length, " than 2 values, expected ", recent_expected);
  }

  const Bundle& bundle_;
  Request& to_;
  const ReadLimits limits_;
  Deadline deadline_;
  std::size_t values_ = 0;  // read so far
  const std::vector<Input>& inputs_;
  std::vector<bool> has_input_;                 // [inputs_]: whether the request names it
  std::size_t input_ = 0;                       // the input that is being read
  std::vector<bool> has_score_, score_arrays_;  // [Program::scores]: whether the request names it, and has it
  std::size_t score_ = 0;                       // the score that is being read
  TextTokens query_;                            // of `query`
  Place place_ = Place::document;
  Field field_{};
  unsigned keys_ = 0;     // bits, by Field
  unsigned present_ = 0;  // likewise, those that are not null
  std::size_t pair_size_ = 0;
};

// Replaces the rules of the bundle's policy, and keeps its maps.
void read_own_policy(std::string_view json, const Policy& bundle, Request& request) {
  try {
    const JsonDocument document(reinterpret_cast<const unsigned char*>(json.data()), json.size(), "policy");
    request.policy = bundle;
    read_rules(document.root(), request.policy);
    request.has_policy = true;
  } catch (const Error& error) {
    fail(error.status() == REXIT_CORRUPT ? REXIT_INVALID_ARGUMENT : error.status(), error.what());
  }
}

void append_id(const Ids& ids, Row row, std::string& out) {
  if (ids.are_strings())
    append_string(ids.string_at(static_cast<std::size_t>(row)), out);
  else
    append_value(ids.number_at(static_cast<std::size_t>(row)), out);
}

void append_score(const Session& session, const Score& score, bool truncated, std::string& out) {
  const Bundle& bundle = session.loaded().bundle;
  const Answer& answer = score.answer;
  const auto number_or_null = [&](const char* key, auto number) {
    out += key;
    if (answer.has_exit())
      append_value(number, out);
    else
      out += "null";
  };
  out += "{\"item\":";
  if (const std::optional<Row> row = session.item(score.item))
    append_id(bundle.catalog().items.ids, *row, out);
  else
    append_value(score.item, out);
  number_or_null(",\"probability\":", probability(answer.calibrated, bundle.policy().prior_shift));
  number_or_null(",\"log_odds\":", answer.log_odds);
  number_or_null(",\"exit\":", answer.exit);
  out += ",\"layers\":";
  append_value(answer.has_exit() ? bundle.depth(answer.exit) : 0, out);
  out += ",\"cut_short\":";
  append_value(answer.cut_short, out);
  if (truncated) out += ",\"truncated\":true";
  out += '}';
}

}  // namespace

void read_request(std::string_view json, const Bundle& bundle, Request& out, const ReadLimits& limits) {
  if (json.size() > max_request_bytes)
    fail(REXIT_INVALID_ARGUMENT, "the request has ", json.size(), " bytes, expected at most ", max_request_bytes);
  if (const std::string error = unparsed_bytes_error(json); !error.empty()) fail(REXIT_INVALID_ARGUMENT, error);
  out.clear(bundle.program());
  const platform::CLocale c_locale;  // nlohmann's lexer reads numbers with strtod
  Reader reader(bundle, out, limits);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  reader.check();
}

void apply_options(const rexit_call_options& options, const Bundle& bundle, Request& request) {
  if (options.waited_us < 0) fail(REXIT_INVALID_ARGUMENT, "options.waited_us is ", options.waited_us, ", expected 0 or more");
  if (options.deadline_us < 0)
    fail(REXIT_INVALID_ARGUMENT, "options.deadline_us is ", options.deadline_us, ", expected 0 or more");
  if (options.has_force_exit != 0) {
    check_exit(options.force_exit, bundle);
    request.force_exit = options.force_exit;
  }
  if (options.has_force_exit != 0 || options.policy != nullptr) request.floor = false;  // it is of the bundle's own rules
  if (options.policy != nullptr) read_own_policy({options.policy, options.policy_bytes}, bundle.policy(), request);
  if (request.deadline_us == 0) request.deadline_us = options.deadline_us;
  if (request.deadline_us == 0) return;
  if (request.deadline_us <= options.waited_us) fail(REXIT_DEADLINE, "the deadline passed while the request waited");
  request.deadline_us -= options.waited_us;
}

void write_answer(const Request& request, const Session& session, const std::vector<Score>& scores, const rexit_stats& stats,
                  std::int64_t waited_us, std::string& out) {
  out = '{';
  if (!request.id.empty()) ((out += "\"id\":") += request.id) += ',';
  if (!request.by_tokens) ((out += "\"user\":") += request.user) += ',';
  out += "\"variant\":";
  append_string(session.loaded().bundle.variant().name, out);
  const auto number = [&out](const char* key, auto value) {
    out += key;
    append_value(value, out);
  };
  if (!request.by_tokens) number(",\"known\":", stats.known_user != 0);
  out += ",\"scores\":[";
  for (const Score& score : scores) {
    if (&score != &scores.front()) out += ',';
    append_score(session, score, score.item < request.truncated.size() && request.truncated[score.item] != 0, out);
  }
  number("],\"stats\":{\"prefix_tokens\":", stats.prefix_tokens);
  number(",\"prefix_tokens_reused\":", stats.prefix_tokens_reused);
  number(",\"candidate_tokens\":", stats.candidate_tokens);
  number(",\"candidate_layers\":", stats.candidate_layers);
  number(",\"prefix_layers\":", stats.prefix_layers);
  number(",\"retrieval_us\":", stats.retrieval_us);
  number(",\"prefix_us\":", stats.prefix_us);
  number(",\"slate_us\":", stats.slate_us);
  number(",\"total_us\":", stats.total_us);
  number(",\"queue_us\":", waited_us);
  out += "}}";
}

}  // namespace rexit::core

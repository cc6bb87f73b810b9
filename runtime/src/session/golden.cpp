#include "session/golden.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/platform.hpp"
#include "base/status.hpp"
#include "bundle/catalog/tables.hpp"
#include "files/safetensors.hpp"
#include "session/stops.hpp"

namespace rexit::core {
namespace {

using Offsets = Array<std::int64_t>;

// golden.safetensors, as docs/format/variant.md has it. Every value is checked before it is used.
class GoldenSamples {
 public:
  explicit GoldenSamples(const Bundle& bundle)
      : bundle_(bundle),
        file_(bundle.folder().open(bundle.variant().golden)),
        slates_(file_.array<std::int64_t>("slate_offsets", {std::nullopt})),
        log_odds_(file_.array<float>("log_odds", {std::nullopt, bundle.exits()})) {
    const std::size_t candidates = log_odds_.size / bundle.exits();
    if (slates_.size < 2)
      fail(REXIT_CORRUPT, file_.path(), ": `slate_offsets` has ", slates_.size, " numbers, expected 2 or more");
    check_offsets(file_, "slate_offsets", slates_, candidates);
    prefixes_ = file_.array<std::int64_t>("prefix_offsets", {slates_.size});
    prefix_tokens_ = file_.array<std::int32_t>("prefix_tokens", {std::nullopt});
    candidates_ = file_.array<std::int64_t>("candidate_offsets", {candidates + 1});
    candidate_tokens_ = file_.array<std::int32_t>("candidate_tokens", {std::nullopt});
    check_offsets(file_, "prefix_offsets", prefixes_, prefix_tokens_.size);
    check_offsets(file_, "candidate_offsets", candidates_, candidate_tokens_.size);
    const Program& program = bundle.program();
    for (const std::string& name : program.scores) scores_.push_back(file_.array<float>("score." + name, {candidates}));
    if (!bundle.has_catalog()) return;
    users_ = file_.array<std::int32_t>("user", {size()});
    items_ = file_.array<std::int32_t>("item", {candidates});
    times_ = file_.array<std::int64_t>("as_of", {size()});
    if (program.inputs.empty()) return;
    inputs_ = file_.array<std::int64_t>("input_offsets", {size() * program.inputs.size() + 1});
    codes_ = file_.array<std::int32_t>("input_codes", {std::nullopt});
    check_offsets(file_, "input_offsets", inputs_, codes_.size);
  }

  std::size_t size() const noexcept { return slates_.size - 1; }  // slates
  std::size_t candidates(std::size_t slate) const { return at(slates_, slate + 1) - at(slates_, slate); }
  // [candidates, exits]
  const float* log_odds(std::size_t slate) const { return log_odds_.data + at(slates_, slate) * bundle_.exits(); }

  // Valid until the next call.
  const Request& request(std::size_t slate) {
    read_scores(slate);
    if (bundle_.has_catalog()) {
      read_query(slate);
    } else {
      read_tokens(slate);
    }
    return request_;
  }

  // The slate in a message. Call this, item() and difference() after request(slate).
  std::string name(std::size_t slate) const {
    std::string name = "golden slate " + std::to_string(slate);
    if (bundle_.has_catalog()) name += ", user " + bundle_.catalog().users.ids.text(users_[slate]);
    return name;
  }
  // A candidate of the slate in a message.
  std::string item(std::size_t slate, std::size_t candidate) const {
    if (!bundle_.has_catalog()) return "item " + std::to_string(candidate);
    return "item " + bundle_.catalog().items.ids.text(items_[at(slates_, slate) + candidate]);
  }

  // The first difference of a prompt from the recorded one, as a line; empty: none.
  std::string difference(std::size_t slate, const Prompt& prompt) const {
    for (std::size_t part = 0; part < prompt.candidates() + 1; ++part) {
      const Offsets& offsets = part == 0 ? prefixes_ : candidates_;
      const std::size_t index = part == 0 ? slate : at(slates_, slate) + part - 1;
      const std::int32_t* expected = (part == 0 ? prefix_tokens_ : candidate_tokens_).data + at(offsets, index);
      const std::size_t expected_count = at(offsets, index + 1) - at(offsets, index);
      const std::int32_t* tokens = prompt.tokens.data() + prompt.offsets[part];
      const std::size_t count = prompt.offsets[part + 1] - prompt.offsets[part];
      std::size_t t = 0;
      while (t < count && t < expected_count && tokens[t] == expected[t]) ++t;
      if (t == count && t == expected_count) continue;
      const std::string line = name(slate) + ": the prompt of " + (part == 0 ? "the prefix" : item(slate, part - 1)) +
                               " differs from the exporter's: ";
      if (t == count || t == expected_count)
        return line + std::to_string(count) + " tokens, expected " + std::to_string(expected_count);
      return line + "token " + std::to_string(t) + " is " + std::to_string(tokens[t]) + ", expected " +
             std::to_string(expected[t]);
    }
    return {};
  }

 private:
  static std::size_t at(const Offsets& offsets, std::size_t i) { return static_cast<std::size_t>(offsets[i]); }

  void read_query(std::size_t slate) {
    const Catalog& catalog = bundle_.catalog();
    Query& query = request_.query;
    query.user = Row(index_at(file_, "user", users_, slate, catalog.users.ids.size()));
    query.items.clear();
    for (std::size_t i = at(slates_, slate); i < at(slates_, slate + 1); ++i)
      query.items.push_back(Row(index_at(file_, "item", items_, i, catalog.items.ids.size())));
    query.as_of = times_[slate];
    const std::vector<Input>& inputs = catalog.program.inputs;
    query.inputs.resize(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) read_codes(slate, i, inputs[i], query.inputs[i]);
  }

  void read_tokens(std::size_t slate) {
    const std::size_t begin = at(slates_, slate), end = at(slates_, slate + 1);
    TokenPrompt& tokens = request_.tokens;
    request_.by_tokens = true;
    tokens.prefix.assign(prefix_tokens_.data + at(prefixes_, slate), prefix_tokens_.data + at(prefixes_, slate + 1));
    tokens.candidates.assign(candidate_tokens_.data + at(candidates_, begin), candidate_tokens_.data + at(candidates_, end));
    tokens.counts.clear();
    for (std::size_t i = begin; i < end; ++i) tokens.counts.push_back(at(candidates_, i + 1) - at(candidates_, i));
  }

  void read_scores(std::size_t slate) {
    request_.scores.resize(scores_.size());
    for (std::size_t s = 0; s < scores_.size(); ++s) {
      request_.scores[s].assign(scores_[s].data + at(slates_, slate), scores_[s].data + at(slates_, slate + 1));
      for (const float score : request_.scores[s])
        if (std::isinf(score))
          fail(REXIT_CORRUPT, file_.path(), ": `score.", bundle_.program().scores[s], "` of slate ", slate, " is ", score,
               ", expected a finite number or NaN");
    }
  }

  void read_codes(std::size_t slate, std::size_t index, const Input& input, Codes& codes) const {
    const std::size_t at_input = slate * bundle_.program().inputs.size() + index;
    const std::size_t begin = at(inputs_, at_input), end = at(inputs_, at_input + 1);
    if (end - begin > input.max_codes() || (begin == end && !input.is_optional()))
      fail(REXIT_CORRUPT, file_.path(), ": `", input.name(), "` of slate ", slate, " has ", end - begin, " codes, expected ",
           input.is_optional() ? 0 : 1, " to ", input.max_codes());
    const std::size_t code_limit = input.is_text() ? bundle_.text_vocabulary() : input.size();
    codes.clear();
    for (std::size_t i = begin; i < end; ++i)
      codes.push_back(std::int32_t(index_at(file_, "input_codes", codes_, i, code_limit)));
  }

  const Bundle& bundle_;
  Safetensors file_;
  Offsets slates_, prefixes_, candidates_, inputs_;
  Array<float> log_odds_;
  std::vector<Array<float>> scores_;  // [Program::scores]
  Array<std::int32_t> users_, items_, codes_, prefix_tokens_, candidate_tokens_;
  Array<std::int64_t> times_;
  Request request_;
};

std::string fixed(float value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.5f", static_cast<double>(value));
  return text;
}

std::string general(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", static_cast<double>(value));
  return text;
}

struct Contradiction {
  std::size_t item;
  std::string line;
};

// The first candidate that reached an exit with other log-odds than the trace has there, or that stopped at another exit than
// the policy says of the log-odds which it reached. Numbers are compared within rounding; the decision is exact, since it is
// held against the very numbers that it was made from.
std::optional<Contradiction> contradiction(const Bundle& bundle, const std::vector<float>& trace,
                                           const std::vector<float>& reached, const std::vector<Score>& scores) {
  const std::size_t exits = bundle.exits();
  const float rounding = bundle.variant().rounding();
  const std::int64_t offsets[] = {0, static_cast<std::int64_t>(scores.size())};
  std::vector<std::int64_t> expected(scores.size());
  replay(bundle.policy(), {reached.data(), offsets, 1}, expected.data());
  for (const auto& [item, answer] : scores) {
    for (std::size_t k = 0; k <= answer.exit; ++k) {
      const float z = reached[item * exits + k], traced = trace[item * exits + k];
      if (!(std::fabs(z - traced) <= rounding * std::max(1.0f, std::fabs(z))))
        return Contradiction{item, "log-odds " + fixed(z) + " at exit " + std::to_string(k) + ", the trace has " + fixed(traced)};
    }
    if (answer.exit != expected[item])
      return Contradiction{item,
                           "stopped at exit " + std::to_string(answer.exit) + ", expected " + std::to_string(expected[item])};
  }
  return std::nullopt;
}

}  // namespace

GoldenCheck check_golden(Session& session, std::size_t slate) {
  const Bundle& bundle = session.loaded().bundle;
  const Variant& variant = bundle.variant();
  if (!variant.tolerance)
    fail(REXIT_CORRUPT, bundle.where_variant("variant.json"),
         ": has no parity.tolerance, which golden samples are compared with");
  GoldenSamples samples(bundle);
  if (slate >= samples.size())
    fail(REXIT_INVALID_ARGUMENT, "slate is ", slate, ", the variant has golden slates 0 to ", samples.size() - 1);
  GoldenCheck check;
  check.slates = samples.size();
  check.candidates = samples.candidates(slate);
  check.tolerance = *variant.tolerance;
  if (check.candidates == 0) return check;
  const Request& request = samples.request(slate);
  if (bundle.has_catalog()) check.prompt = samples.difference(slate, session.prompt(request));
  session.clear_cache();  // keys copied from another prefix may change the last bits
  rexit_stats ignored{};
  check.trace = session.trace(request, Clock::now(), ignored);
  const float* expected = samples.log_odds(slate);
  std::size_t place = 0;
  for (std::size_t i = 0; i < check.trace.size(); ++i) {
    const float difference = std::fabs(check.trace[i] - expected[i]);
    if (difference <= check.worst) continue;
    check.worst = std::isfinite(difference) ? difference : std::numeric_limits<float>::infinity();
    place = i;
    if (std::isinf(check.worst)) break;
  }
  const platform::CLocale c_locale;
  if (check.worst > check.tolerance) {
    check.log_odds = samples.name(slate) + ", " + samples.item(slate, place / bundle.exits()) + ", exit " +
                     std::to_string(place % bundle.exits()) + ": log-odds " + fixed(check.trace[place]) + ", expected " +
                     fixed(expected[place]) + " +- " + general(check.tolerance);
  }
  session.clear_cache();
  std::vector<float> reached;
  for (const char* prefix : {"cold", "warm"}) {
    const std::vector<Score>& scores = session.score(request, Clock::now(), ignored, &reached);
    const auto wrong = contradiction(bundle, check.trace, reached, scores);
    if (!wrong) continue;
    check.decision = samples.name(slate) + ", " + prefix + " prefix, " + samples.item(slate, wrong->item) + ": " + wrong->line;
    break;
  }
  return check;
}

}  // namespace rexit::core

#include "api/request.hpp"

#include <algorithm>
#include <cmath>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>

#include "api/c_struct.hpp"

namespace rexit::core {
namespace {

// Sizes in the first version of rexit.h.
constexpr std::size_t first_id_size = 16, first_score_size = 24, first_context_size = 24, first_text_size = 24;

std::string text_of(const rexit_id& id) {
  return id.text != nullptr ? "'" + std::string(id.text) + "'" : std::to_string(id.number);
}

// The position of an id in a request, for messages.
struct IdPosition {
  const char* list;
  std::optional<std::size_t> index;
  std::string text() const { return index ? std::string(list) + "[" + std::to_string(*index) + "]" : list; }
};

std::optional<Row> find(const Ids& ids, const rexit_id& id, const IdPosition& position) {
  if (ids.are_strings() != (id.text != nullptr))
    fail(REXIT_INVALID_ARGUMENT, position.text(), " is ", ids.are_strings() ? "an integer" : "a string",
         ", the catalog's ids are ", ids.are_strings() ? "strings" : "integers");
  return id.text != nullptr ? ids.find(std::string_view(id.text)) : ids.find(id.number);
}

Row item_row(const Ids& ids, const rexit_id& id, const IdPosition& position) {
  const std::optional<Row> row = find(ids, id, position);
  if (!row)
    fail(REXIT_UNKNOWN_ITEM, position.text(), ": item ", text_of(id),
         " is not in the catalog; `rexit refresh` brings new items, a request cannot");
  return *row;
}

void read_moves(const float* numbers, const char* name, std::size_t count, std::vector<float>& moves) {
  moves.clear();
  for (std::size_t k = 0; k < count; ++k) {
    moves.push_back(required(numbers, name)[k]);
    if (!std::isfinite(moves.back()) || moves.back() < 0)
      fail(REXIT_INVALID_ARGUMENT, name, '[', k, "] is ", moves.back(), ", expected a finite number of 0 or more");
  }
}

void read_top_k(const rexit_top_k* pointer, std::size_t exits, TopK& top_k) {
  const rexit_top_k source = read_struct(pointer, "policy.top_k");
  if (source.k == 0 || source.k > max_candidates)
    fail(REXIT_INVALID_ARGUMENT, "policy.top_k.k is ", source.k, ", expected 1 to ", max_candidates);
  if (source.ordered != 0 && source.ordered != 1)
    fail(REXIT_INVALID_ARGUMENT, "policy.top_k.ordered is ", source.ordered, ", expected 0 or 1");
  if (source.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "policy.top_k.reserved is ", source.reserved, ", expected 0");
  top_k.k = source.k;
  top_k.ordered = source.ordered == 1;
  read_moves(source.rise, "policy.top_k.rise", exits - 1, top_k.rise);
  read_moves(source.fall, "policy.top_k.fall", exits - 1, top_k.fall);
}

void read_policy(const rexit_policy* pointer, const Policy& bundle, Policy& policy) {
  const rexit_policy source = read_struct(pointer, "policy");
  const std::size_t exits = bundle.exits.size();
  if (source.exits != exits) fail(REXIT_INVALID_ARGUMENT, "policy has ", source.exits, " exits, the bundle has ", exits);
  if (source.patience == 0) fail(REXIT_INVALID_ARGUMENT, "policy.patience is 0, expected at least 1");
  policy.exits.assign(bundle.exits.begin(), bundle.exits.end());
  policy.earlier.assign(bundle.earlier.begin(), bundle.earlier.end());
  policy.weights.assign(bundle.weights.begin(), bundle.weights.end());
  policy.objective_maps.assign(bundle.objective_maps.begin(), bundle.objective_maps.end());
  policy.patience = source.patience;
  for (std::size_t k = 0; k < exits; ++k) {
    policy.exits[k].upper = required(source.upper, "policy.upper")[k];
    policy.exits[k].lower = required(source.lower, "policy.lower")[k];
    if (std::isnan(policy.exits[k].upper) || std::isnan(policy.exits[k].lower))
      fail(REXIT_INVALID_ARGUMENT, "policy: a threshold of exit ", k, " is NaN");
  }
  if (!(source.quorum >= 0 && source.quorum < 1))
    fail(REXIT_INVALID_ARGUMENT, "policy.quorum is ", source.quorum, ", expected 0 to below 1");
  if (source.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "policy.reserved is ", source.reserved, ", expected 0");
  policy.quorum = source.quorum;
  policy.top_k.k = 0;
  if (source.top_k != nullptr) read_top_k(source.top_k, exits, policy.top_k);
}

[[noreturn]] void fail_unknown_context(const char* name, const std::vector<Context>& contexts) {
  std::string known = contexts.empty() ? "it has none" : "it has: ";
  for (const Context& context : contexts) known += (&context == &contexts.front() ? "" : ", ") + context.name();
  fail(REXIT_INVALID_ARGUMENT, "context '", name, "': the prompt places no such context, ", known);
}

std::string number_text(double number) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << number;
  return text.str();
}

// Numbers of the contexts' values, in the program's order.
void read_context(const rexit_request& source, const std::vector<Context>& contexts, std::vector<std::int32_t>& numbers) {
  constexpr std::int32_t not_given = -2;
  numbers.assign(contexts.size(), not_given);
  if (source.context_count != 0) {
    required(source.context, "request.context");
    check_entry_size<rexit_context>(source.context_size, first_context_size, "request.context_size");
  }
  for (std::size_t i = 0; i < source.context_count; ++i) {
    const IdPosition position{"context", i};
    const rexit_context entry = read_entry(source.context, i, source.context_size, position);
    if (entry.name == nullptr) fail(REXIT_INVALID_ARGUMENT, position.text(), ".name is NULL");
    const auto match =
        std::find_if(contexts.begin(), contexts.end(), [&](const Context& context) { return context.name() == entry.name; });
    if (match == contexts.end()) fail_unknown_context(entry.name, contexts);
    std::int32_t& number = numbers[static_cast<std::size_t>(match - contexts.begin())];
    if (number != not_given) fail(REXIT_INVALID_ARGUMENT, "context '", entry.name, "' appears twice in the request");
    const auto value = entry.text != nullptr ? match->find(std::string_view(entry.text)) : match->find(entry.number);
    if (!value && match->refuses_unknown()) {
      const std::string quote = entry.text != nullptr ? "'" : "";
      fail(REXIT_INVALID_ARGUMENT, "context '", entry.name, "' is ", quote,
           entry.text != nullptr ? std::string(entry.text) : number_text(entry.number), quote, ", expected ", match->expected());
    }
    number = value.value_or(Context::missing);
  }
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    if (numbers[i] != not_given) continue;
    if (contexts[i].refuses_unknown())
      fail(REXIT_INVALID_ARGUMENT, "context '", contexts[i].name(), "' is missing, expected ", contexts[i].expected());
    numbers[i] = Context::missing;
  }
}

[[noreturn]] void fail_unknown_text(const char* name, const std::vector<RequestText>& texts) {
  std::string known = texts.empty() ? "it has none" : "it has: ";
  for (const RequestText& text : texts) known += (&text == &texts.front() ? "" : ", ") + text.name;
  fail(REXIT_INVALID_ARGUMENT, "request text '", name, "': the prompt places no such text, ", known);
}

// Tokens of the request texts, in the program's order. They stay in the caller's memory. `vocabulary`: token ids are below this.
void read_texts(const rexit_request& source, const std::vector<RequestText>& texts, std::size_t vocabulary,
                std::vector<TextTokens>& tokens) {
  tokens.assign(texts.size(), {});
  if (source.text_count != 0) {
    required(source.texts, "request.texts");
    check_entry_size<rexit_text>(source.text_size, first_text_size, "request.text_size");
  }
  for (std::size_t i = 0; i < source.text_count; ++i) {
    const IdPosition position{"texts", i};
    const rexit_text entry = read_entry(source.texts, i, source.text_size, position);
    if (entry.name == nullptr) fail(REXIT_INVALID_ARGUMENT, position.text(), ".name is NULL");
    const auto match = std::find_if(texts.begin(), texts.end(), [&](const RequestText& text) { return text.name == entry.name; });
    if (match == texts.end()) fail_unknown_text(entry.name, texts);
    TextTokens& own = tokens[static_cast<std::size_t>(match - texts.begin())];
    const auto name = [&] { return "request text '" + match->name + "'"; };
    if (own.tokens != nullptr) fail(REXIT_INVALID_ARGUMENT, name(), " appears twice in the request");
    if (entry.token_count > match->limit)
      fail(REXIT_INVALID_ARGUMENT, name(), " has ", entry.token_count, " tokens, expected at most ", match->limit);
    if (entry.token_count != 0 && entry.tokens == nullptr) fail(REXIT_INVALID_ARGUMENT, position.text(), ".tokens is NULL");
    static constexpr std::int32_t no_tokens = 0;
    own = {entry.token_count == 0 ? &no_tokens : entry.tokens, entry.token_count};
    for (std::size_t t = 0; t < own.count; ++t)
      if (own.tokens[t] < 0 || static_cast<std::size_t>(own.tokens[t]) >= vocabulary)
        fail(REXIT_INVALID_ARGUMENT, name(), '[', t, "] is ", own.tokens[t], ", expected a token id from 0 to ", vocabulary - 1);
  }
  for (std::size_t i = 0; i < texts.size(); ++i)
    if (texts[i].required && tokens[i].count == 0)
      fail(REXIT_INVALID_ARGUMENT, "request text '", texts[i].name, "' is missing, expected at most ", texts[i].limit, " tokens");
}

void check_candidates(std::size_t count, const char* name) {
  if (count == 0) fail(REXIT_INVALID_ARGUMENT, name, " is 0, expected at least 1");
  if (count > max_candidates) fail(REXIT_INVALID_ARGUMENT, name, " is ", count, ", expected at most ", max_candidates);
}

// What both kinds of requests have.
template <class Source>
void read_rules(const Source& source, const Bundle& bundle, Request& request) {
  if (source.deadline_us < 0) fail(REXIT_INVALID_ARGUMENT, "request.deadline_us is ", source.deadline_us, ", expected 0 or more");
  request.has_policy = source.policy != nullptr;
  if (request.has_policy) read_policy(source.policy, bundle.policy(), request.policy);
  request.force_exit.reset();
  if (source.has_force_exit != 0) {
    if (source.force_exit >= bundle.exits())
      fail(REXIT_INVALID_ARGUMENT, "request.force_exit is ", source.force_exit, ", the bundle has exits 0 to ",
           bundle.exits() - 1);
    request.force_exit = source.force_exit;
  }
  request.deadline_us = source.deadline_us;
  request.top_k = source.top_k;
}

template <class Source>
Room room_of(const Source* request, std::size_t scores, std::size_t objectives) {
  const Source source = read_struct(request, "request");
  check_entry_size<rexit_score>(source.score_size, first_score_size, "request.score_size");
  if (source.probabilities != nullptr && source.probability_count < scores * objectives)
    fail(REXIT_INVALID_ARGUMENT, "request.probability_count is ", source.probability_count, ", expected ", scores, " scores x ",
         objectives, " objectives");
  return {source.score_size, source.probabilities};
}

}  // namespace

void read_request(const rexit_request* pointer, const Bundle& bundle, Request& request) {
  const rexit_request source = read_struct(pointer, "request");
  if (!bundle.has_catalog())
    fail(REXIT_INVALID_ARGUMENT, "the bundle has no catalog: it takes token ids, not ids of users and items");
  const Catalog& catalog = bundle.catalog();
  check_candidates(source.item_count, "request.item_count");
  required(source.items, "request.items");
  if (source.recent_count != 0) required(source.recent_items, "request.recent_items");
  required(source.user, "request.user");
  check_entry_size<rexit_id>(source.id_size, first_id_size, "request.id_size");
  if (source.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "request.reserved is ", source.reserved, ", expected 0");

  const auto row = [&](const rexit_id* ids, std::size_t index, const char* list) {
    const IdPosition position{list, index};
    return item_row(catalog.items.ids, read_entry(ids, index, source.id_size, position), position);
  };
  const IdPosition user{"user", std::nullopt};
  request.query.user = find(catalog.users.ids, read_entry(source.user, 0, source.id_size, user), user);
  request.query.items.clear();
  request.query.items.reserve(source.item_count);
  for (std::size_t i = 0; i < source.item_count; ++i) request.query.items.push_back(row(source.items, i, "items"));
  request.query.recent.clear();
  for (std::size_t i = 0; i < source.recent_count; ++i)
    request.query.recent.push_back(
        {row(source.recent_items, i, "recent_items"), source.recent_liked == nullptr || source.recent_liked[i] != 0});
  read_context(source, catalog.program.contexts, request.query.context);
  read_texts(source, catalog.program.texts, bundle.vocabulary(), request.query.texts);
  request.query.as_of = source.has_as_of != 0 ? std::optional(source.as_of) : std::nullopt;
  request.tokens.reset();
  read_rules(source, bundle, request);
}

void read_request(const rexit_token_request* pointer, const Bundle& bundle, Request& request) {
  const rexit_token_request source = read_struct(pointer, "request");
  check_candidates(source.candidate_count, "request.candidate_count");
  if (source.prefix_count != 0) required(source.prefix, "request.prefix");
  required(source.candidates, "request.candidates");
  required(source.candidate_counts, "request.candidate_counts");
  request.tokens =
      TokenPrompt{source.prefix, source.prefix_count, source.candidates, source.candidate_counts, source.candidate_count};
  read_rules(source, bundle, request);
}

Room read_room(const rexit_request* request, std::size_t scores, std::size_t objectives) {
  return room_of(request, scores, objectives);
}
Room read_room(const rexit_token_request* request, std::size_t scores, std::size_t objectives) {
  return room_of(request, scores, objectives);
}

}  // namespace rexit::core

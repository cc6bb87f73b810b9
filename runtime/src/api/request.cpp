#include "api/request.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/c_struct.hpp"

namespace rexit::core {
namespace {

// Sizes in the first version of rexit.h.
constexpr std::size_t first_id_size = 16, first_score_size = 24;

std::string text_of(const rexit_id& id) { return id.text != nullptr ? quoted(id.text) : std::to_string(id.number); }

std::optional<Row> find(const Ids& ids, const rexit_id& id, const Position& position) {
  if (ids.are_strings() != (id.text != nullptr))
    fail(REXIT_INVALID_ARGUMENT, position.text(), " is ", text_of(id), ", the catalog's ids are ",
         ids.are_strings() ? "strings" : "integers");
  return id.text != nullptr ? ids.find(std::string_view(id.text)) : ids.find(id.number);
}

Row item_row(const Ids& ids, const rexit_id& id, const Position& position) {
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
  policy.patience = source.patience;
  for (std::size_t k = 0; k < exits; ++k) {
    policy.exits[k].upper = required(source.upper, "policy.upper")[k];
    policy.exits[k].lower = required(source.lower, "policy.lower")[k];
    if (std::isnan(policy.exits[k].upper) || std::isnan(policy.exits[k].lower))
      fail(REXIT_INVALID_ARGUMENT, "policy: a threshold of exit ", k, " is NaN");
  }
  if (source.quorum > max_candidates)
    fail(REXIT_INVALID_ARGUMENT, "policy.quorum is ", source.quorum, ", expected 0 to ", max_candidates);
  policy.quorum = source.quorum;
  policy.top_k.k = 0;
  if (source.top_k != nullptr) read_top_k(source.top_k, exits, policy.top_k);
  policy.keep.clear();
  for (std::size_t k = 0; source.keep != nullptr && k < exits; ++k) {
    policy.keep.push_back(source.keep[k]);
    if (const std::size_t most = k + 1 == exits ? 0 : max_candidates; policy.keep.back() > most)
      fail(REXIT_INVALID_ARGUMENT, "policy.keep[", k, "] is ", policy.keep.back(), ", expected 0 to ", most);
  }
}

bool has_name(const rexit_input& entry, const Input& input) { return input.name() == entry.name; }

// The entries of request.inputs.
class InputEntries {
 public:
  explicit InputEntries(const rexit_request& source) : source_(source) {
    if (source.input_count == 0) return;
    required(source.inputs, "request.inputs");
    check_entry_size<rexit_input>(source.input_size, first_input_size, "request.input_size");
  }

  // Throws if one of them is not in `inputs`.
  void check_names(const std::vector<Input>& inputs) const {
    for (std::size_t i = 0; i < source_.input_count; ++i) {
      const rexit_input entry = at(i);
      if (entry.name == nullptr) fail(REXIT_INVALID_ARGUMENT, Position{"inputs", i}.text(), ".name is NULL");
      if (std::any_of(inputs.begin(), inputs.end(), [&](const Input& input) { return has_name(entry, input); })) continue;
      std::string known = inputs.empty() ? "it has none" : "it has: ";
      for (const Input& input : inputs) known += (&input == &inputs.front() ? "" : ", ") + input.name();
      fail(REXIT_INVALID_ARGUMENT, "inputs.", shortened(entry.name), ": the prompt has no such input, ", known);
    }
  }

  std::optional<rexit_input> find(const Input& input) const {
    std::optional<rexit_input> match;
    for (std::size_t i = 0; i < source_.input_count; ++i) {
      const rexit_input entry = at(i);
      if (!has_name(entry, input)) continue;
      if (match) fail(REXIT_INVALID_ARGUMENT, "inputs.", input.name(), " appears twice in the request");
      match = entry;
    }
    return match;
  }

 private:
  rexit_input at(std::size_t i) const { return read_entry(source_.inputs, i, source_.input_size, Position{"inputs", i}); }

  const rexit_request& source_;
};

// The codes of the inputs' values, in the program's order.
void read_inputs(const rexit_request& source, const Bundle& bundle, std::vector<Codes>& codes) {
  const std::vector<Input>& inputs = bundle.program().inputs;
  const InputEntries entries(source);
  entries.check_names(inputs);
  codes.resize(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::optional<rexit_input> entry = entries.find(inputs[i]);
    if (!entry)
      inputs[i].encode_missing(codes[i]);
    else if (entry->text != nullptr)
      inputs[i].encode(std::string_view(entry->text), codes[i]);
    else if (entry->tokens != nullptr)
      inputs[i].encode(entry->tokens, entry->token_count, bundle.vocabulary(), codes[i]);
    else
      inputs[i].encode(entry->number, codes[i]);
  }
}

void read_rules(const rexit_request& source, const Bundle& bundle, Request& request) {
  if (source.deadline_us < 0) fail(REXIT_INVALID_ARGUMENT, "deadline_us is ", source.deadline_us, ", expected 0 or more");
  request.has_policy = source.policy != nullptr;
  if (request.has_policy) read_policy(source.policy, bundle.policy(), request.policy);
  request.force_exit.reset();
  if (source.has_force_exit != 0) {
    if (source.force_exit >= bundle.exits())
      fail(REXIT_INVALID_ARGUMENT, "force_exit is ", source.force_exit, ", the bundle has exits 0 to ", bundle.exits() - 1);
    request.force_exit = source.force_exit;
  }
  request.deadline_us = source.deadline_us;
  request.top_k = source.top_k;
}

// Throws unless the request has scores exactly if exit zero reads them.
void read_scores(const rexit_request& source, const Bundle& bundle, Request& request) {
  request.scores.clear();
  if (!bundle.reads_scores(request.tokens.has_value())) {
    if (source.scores != nullptr) fail(REXIT_INVALID_ARGUMENT, "scores is set, but nothing reads it for such a request");
    return;
  }
  if (source.scores == nullptr)
    fail(REXIT_INVALID_ARGUMENT, "scores is missing, expected a number for each candidate: exit zero reads it");
  request.scores.assign(source.scores, source.scores + request.candidates());
  for (std::size_t i = 0; i < request.scores.size(); ++i)
    if (!std::isfinite(request.scores[i]))
      fail(REXIT_INVALID_ARGUMENT, "scores[", i, "] is ", request.scores[i], ", expected a finite number");
}

void read_query(const rexit_request& source, const Bundle& bundle, Query& query) {
  if (!bundle.has_catalog())
    fail(REXIT_INVALID_ARGUMENT, "the bundle has no catalog: it takes token ids, not ids of users and items");
  const Catalog& catalog = bundle.catalog();
  if (source.item_count == 0) fail(REXIT_INVALID_ARGUMENT, "items is empty, expected at least one id");
  if (source.item_count > max_candidates)
    fail(REXIT_INVALID_ARGUMENT, "items has ", source.item_count, " ids, expected at most ", max_candidates);
  required(source.items, "request.items");
  if (source.recent_count != 0) required(source.recent_items, "request.recent_items");
  if (source.user == nullptr)
    fail(REXIT_INVALID_ARGUMENT, "user is missing, expected ", catalog.users.ids.are_strings() ? "a string" : "an integer");
  check_entry_size<rexit_id>(source.id_size, first_id_size, "request.id_size");

  const auto row = [&](const rexit_id* ids, std::size_t index, const char* list) {
    const Position position{list, index};
    return item_row(catalog.items.ids, read_entry(ids, index, source.id_size, position), position);
  };
  const Position user{"user", std::nullopt};
  query.user = find(catalog.users.ids, read_entry(source.user, 0, source.id_size, user), user);
  query.items.clear();
  query.items.reserve(source.item_count);
  for (std::size_t i = 0; i < source.item_count; ++i) query.items.push_back(row(source.items, i, "items"));
  query.recent.clear();
  for (std::size_t i = 0; i < source.recent_count; ++i)
    query.recent.push_back(
        {row(source.recent_items, i, "recent"), source.recent_liked == nullptr || source.recent_liked[i] != 0});
  read_inputs(source, bundle, query.inputs);
  query.as_of = source.has_as_of != 0 ? std::optional(source.as_of) : std::nullopt;
}

TokenPrompt read_tokens(const rexit_request& source) {
  const std::pair<const char*, bool> fields[] = {{"user", source.user != nullptr},
                                                 {"items", source.item_count != 0},
                                                 {"recent", source.recent_count != 0},
                                                 {"as_of", source.has_as_of != 0},
                                                 {"inputs", source.input_count != 0}};
  for (const auto& [name, is_set] : fields)
    if (is_set) fail(REXIT_INVALID_ARGUMENT, name, " is set, but the request is token ids: expected either ids or token ids");
  const rexit_tokens tokens = read_struct(source.tokens, "request.tokens");
  if (tokens.candidate_count == 0) fail(REXIT_INVALID_ARGUMENT, "candidates is empty, expected at least one list of token ids");
  if (tokens.candidate_count > max_candidates)
    fail(REXIT_INVALID_ARGUMENT, "candidates has ", tokens.candidate_count, " lists, expected at most ", max_candidates);
  if (tokens.prefix_count != 0) required(tokens.prefix, "request.tokens.prefix");
  required(tokens.candidates, "request.tokens.candidates");
  required(tokens.candidate_counts, "request.tokens.candidate_counts");
  return {tokens.prefix, tokens.prefix_count, tokens.candidates, tokens.candidate_counts, tokens.candidate_count};
}

}  // namespace

void read_request(const rexit_request& source, const Bundle& bundle, Request& request) {
  if (source.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "request.reserved is ", source.reserved, ", expected 0");
  request.tokens.reset();
  if (source.tokens != nullptr)
    request.tokens = read_tokens(source);
  else
    read_query(source, bundle, request.query);
  read_scores(source, bundle, request);
  read_rules(source, bundle, request);
}

std::size_t read_score_size(const rexit_request& source) {
  check_entry_size<rexit_score>(source.score_size, first_score_size, "request.score_size");
  return source.score_size;
}

}  // namespace rexit::core

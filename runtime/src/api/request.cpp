#include "api/request.hpp"

#include <cmath>
#include <ostream>
#include <string>

#include "api/c_struct.hpp"

namespace rexit::core {
namespace {

// In the first version of rexit.h.
constexpr std::size_t first_id_size = 16, first_score_size = 24;

std::string text_of(const rexit_id& id) {
  return id.text != nullptr ? "'" + std::string(id.text) + "'" : std::to_string(id.number);
}

// Which id of a request a message is about.
struct Which {
  const char* list;
  std::optional<std::size_t> index;
};

std::ostream& operator<<(std::ostream& out, const Which& which) {
  out << which.list;
  if (which.index) out << '[' << *which.index << ']';
  return out;
}

std::optional<Row> find(const Ids& ids, const rexit_id& id, const Which& which) {
  if (ids.are_strings() != (id.text != nullptr))
    fail(REXIT_INVALID_ARGUMENT, which, " is ", ids.are_strings() ? "an integer" : "a string", ", the catalog's ids are ",
         ids.are_strings() ? "strings" : "integers");
  return id.text != nullptr ? ids.find(std::string_view(id.text)) : ids.find(id.number);
}

Row item_row(const Ids& ids, const rexit_id& id, const Which& which) {
  const std::optional<Row> row = find(ids, id, which);
  if (!row)
    fail(REXIT_UNKNOWN_ITEM, which, ": item ", text_of(id),
         " is not in the catalog; `rexit refresh` brings new items, a request cannot");
  return *row;
}

void read_moves(const float* given, const char* name, std::size_t count, std::vector<float>& moves) {
  moves.clear();
  for (std::size_t k = 0; k < count; ++k) {
    moves.push_back(required(given, name)[k]);
    if (!std::isfinite(moves.back()) || moves.back() < 0)
      fail(REXIT_INVALID_ARGUMENT, name, '[', k, "] is ", moves.back(), ", expected a finite number of 0 or more");
  }
}

void read_top_k(const rexit_top_k* pointer, std::size_t exits, TopK& top_k) {
  const rexit_top_k given = read_struct(pointer, "policy.top_k");
  if (given.k == 0 || given.k > max_candidates)
    fail(REXIT_INVALID_ARGUMENT, "policy.top_k.k is ", given.k, ", expected 1 to ", max_candidates);
  if (given.ordered != 0 && given.ordered != 1)
    fail(REXIT_INVALID_ARGUMENT, "policy.top_k.ordered is ", given.ordered, ", expected 0 or 1");
  if (given.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "policy.top_k.reserved is ", given.reserved, ", expected 0");
  top_k.k = given.k;
  top_k.ordered = given.ordered == 1;
  read_moves(given.rise, "policy.top_k.rise", exits - 1, top_k.rise);
  read_moves(given.fall, "policy.top_k.fall", exits - 1, top_k.fall);
}

void read_policy(const rexit_policy* pointer, const Policy& bundle, Policy& policy) {
  const rexit_policy given = read_struct(pointer, "policy");
  const std::size_t exits = bundle.exits.size();
  if (given.exits != exits) fail(REXIT_INVALID_ARGUMENT, "policy has ", given.exits, " exits, the bundle has ", exits);
  if (given.patience == 0) fail(REXIT_INVALID_ARGUMENT, "policy.patience is 0, expected at least 1");
  policy.exits.assign(bundle.exits.begin(), bundle.exits.end());
  policy.patience = given.patience;
  for (std::size_t k = 0; k < exits; ++k) {
    policy.exits[k].upper = required(given.upper, "policy.upper")[k];
    policy.exits[k].lower = required(given.lower, "policy.lower")[k];
    if (std::isnan(policy.exits[k].upper) || std::isnan(policy.exits[k].lower))
      fail(REXIT_INVALID_ARGUMENT, "policy: a threshold of exit ", k, " is NaN");
  }
  if (!(given.quorum >= 0 && given.quorum < 1))
    fail(REXIT_INVALID_ARGUMENT, "policy.quorum is ", given.quorum, ", expected 0 to below 1");
  if (given.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "policy.reserved is ", given.reserved, ", expected 0");
  policy.quorum = given.quorum;
  policy.top_k.k = 0;
  if (given.top_k != nullptr) read_top_k(given.top_k, exits, policy.top_k);
}

}  // namespace

void read_request(const rexit_request* pointer, const Bundle& bundle, Request& request) {
  const rexit_request given = read_struct(pointer, "request");
  const Catalog& catalog = bundle.catalog();
  if (given.item_count == 0) fail(REXIT_INVALID_ARGUMENT, "request.item_count is 0, expected at least 1");
  if (given.item_count > max_candidates)
    fail(REXIT_INVALID_ARGUMENT, "request.item_count is ", given.item_count, ", expected at most ", max_candidates);
  required(given.items, "request.items");
  if (given.recent_count != 0) required(given.recent_items, "request.recent_items");
  required(given.user, "request.user");
  check_entry_size<rexit_id>(given.id_size, first_id_size, "request.id_size");
  if (given.reserved != 0) fail(REXIT_INVALID_ARGUMENT, "request.reserved is ", given.reserved, ", expected 0");
  if (given.deadline_us < 0) fail(REXIT_INVALID_ARGUMENT, "request.deadline_us is ", given.deadline_us, ", expected 0 or more");

  const auto row = [&](const rexit_id* ids, std::size_t index, const char* list) {
    const Which which{list, index};
    return item_row(catalog.items.ids, read_entry(ids, index, given.id_size, which), which);
  };
  const Which user{"user", std::nullopt};
  request.query.user = find(catalog.users.ids, read_entry(given.user, 0, given.id_size, user), user);
  request.query.items.clear();
  request.query.items.reserve(given.item_count);
  for (std::size_t i = 0; i < given.item_count; ++i) request.query.items.push_back(row(given.items, i, "items"));
  request.query.recent.clear();
  for (std::size_t i = 0; i < given.recent_count; ++i)
    request.query.recent.push_back(
        {row(given.recent_items, i, "recent_items"), given.recent_liked == nullptr || given.recent_liked[i] != 0});
  request.query.as_of = given.has_as_of != 0 ? std::optional(given.as_of) : std::nullopt;
  request.has_policy = given.policy != nullptr;
  if (request.has_policy) read_policy(given.policy, bundle.policy(), request.policy);
  request.force_exit.reset();
  if (given.has_force_exit != 0) {
    if (given.force_exit >= bundle.exits())
      fail(REXIT_INVALID_ARGUMENT, "request.force_exit is ", given.force_exit, ", the bundle has exits 0 to ",
           bundle.exits() - 1);
    request.force_exit = given.force_exit;
  }
  request.deadline_us = given.deadline_us;
  request.top_k = given.top_k;
}

std::size_t score_size(const rexit_request* request) {
  const std::size_t size = read_struct(request, "request").score_size;
  check_entry_size<rexit_score>(size, first_score_size, "request.score_size");
  return size;
}

}  // namespace rexit::core

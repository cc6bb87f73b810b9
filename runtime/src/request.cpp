#include "request.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "c_struct.hpp"

namespace rexit::core {
namespace {

std::string text_of(const rexit_id& id) {
  return id.text != nullptr ? "'" + std::string(id.text) + "'" : std::to_string(id.number);
}

// `which` names the id in messages: "item 3".
std::optional<Row> find(const Ids& ids, const rexit_id& id, const std::string& which) {
  if (ids.are_strings() != (id.text != nullptr))
    fail(REXIT_INVALID_ARGUMENT, which, " is ", ids.are_strings() ? "an integer" : "a string", ", the catalog's ids are ",
         ids.are_strings() ? "strings" : "integers");
  return id.text != nullptr ? ids.find(std::string_view(id.text)) : ids.find(id.number);
}

Row item_row(const Ids& ids, const rexit_id& id, const char* list, std::size_t index) {
  const std::string which = std::string(list) + "[" + std::to_string(index) + "]";
  const std::optional<Row> row = find(ids, id, which);
  if (!row) fail(REXIT_UNKNOWN_ITEM, which, ": item ", text_of(id), " is not in the catalog");
  return *row;
}

Policy read_policy(const rexit_policy& given, const Policy& bundle) {
  const std::size_t exits = bundle.exits.size();
  if (given.exits != exits) fail(REXIT_INVALID_ARGUMENT, "policy has ", given.exits, " exits, the bundle has ", exits);
  if (given.patience == 0) fail(REXIT_INVALID_ARGUMENT, "policy.patience is 0, expected at least 1");
  Policy policy = bundle;
  policy.patience = given.patience;
  for (std::size_t k = 0; k < exits; ++k) {
    policy.exits[k].upper = required(given.upper, "policy.upper")[k];
    policy.exits[k].lower = required(given.lower, "policy.lower")[k];
    if (std::isnan(policy.exits[k].upper) || std::isnan(policy.exits[k].lower))
      fail(REXIT_INVALID_ARGUMENT, "policy's thresholds of exit ", k, " are not numbers");
  }
  return policy;
}

}  // namespace

Request read_request(const rexit_request* pointer, const Bundle& bundle) {
  const rexit_request given = read_struct(pointer, "request");
  const Catalog& catalog = bundle.catalog();
  if (given.item_count == 0) fail(REXIT_INVALID_ARGUMENT, "request.item_count is 0, expected at least 1");
  // Candidates are numbered in 32 bits.
  if (given.item_count > std::numeric_limits<std::int32_t>::max())
    fail(REXIT_INVALID_ARGUMENT, "request.item_count is too large");
  required(given.items, "request.items");
  if (given.recent_count != 0) required(given.recent_items, "request.recent_items");
  if (given.deadline_us < 0) fail(REXIT_INVALID_ARGUMENT, "request.deadline_us is ", given.deadline_us, ", expected 0 or more");

  Request request;
  request.query.user = find(catalog.users.ids, given.user, "user");
  request.query.items.reserve(given.item_count);
  for (std::size_t i = 0; i < given.item_count; ++i)
    request.query.items.push_back(item_row(catalog.items.ids, given.items[i], "items", i));
  for (std::size_t i = 0; i < given.recent_count; ++i)
    request.query.recent.push_back({item_row(catalog.items.ids, given.recent_items[i], "recent_items", i),
                                    given.recent_liked == nullptr || given.recent_liked[i] != 0});
  if (given.has_as_of != 0) request.query.as_of = given.as_of;
  if (given.policy != nullptr) request.policy = read_policy(*given.policy, bundle.policy());
  if (given.has_force_exit != 0) {
    if (given.force_exit >= bundle.exits())
      fail(REXIT_INVALID_ARGUMENT, "request.force_exit is ", given.force_exit, ", the bundle has exits 0 to ",
           bundle.exits() - 1);
    request.force_exit = given.force_exit;
  }
  request.deadline_us = given.deadline_us;
  request.top_k = given.top_k;
  return request;
}

}  // namespace rexit::core

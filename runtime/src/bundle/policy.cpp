#include "bundle/policy.hpp"

#include "base/status.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_patience = 1024;
constexpr float max_prior_shift = 100;

// The rise or fall of a top-k rule: [exits - 1].
std::vector<float> read_moves(const Json& json, std::size_t exits) {
  std::vector<float> moves;
  for (const Json& element : json.elements()) {
    moves.push_back(element.finite_float());
    if (!(moves.back() >= 0)) fail(REXIT_CORRUPT, element.where(), ": is ", moves.back(), ", expected 0 or more");
  }
  if (moves.size() + 1 != exits)
    fail(REXIT_CORRUPT, json.where(), ": has ", moves.size(), " numbers, expected one per exit but the last, ", exits - 1);
  return moves;
}

float read_prior_shift(const Json& json) {
  const float shift = json.finite_float();
  if (!(std::fabs(shift) <= max_prior_shift))
    fail(REXIT_CORRUPT, json.where(), ": is ", shift, ", expected ", -max_prior_shift, " to ", max_prior_shift);
  return shift;
}

// Exit k's map. Appends k weights to `earlier`, zeros where the exit reads its own head alone.
void read_map(const Json& json, std::size_t k, ExitRule& rule, std::vector<float>& earlier) {
  rule.a = json.at("a").finite_float();
  rule.b = json.at("b").finite_float();
  if (!(std::fabs(rule.b) <= max_intercept))
    fail(REXIT_CORRUPT, json.where(), " b: is ", rule.b, ", expected ", -max_intercept, " to ", max_intercept);
  const std::vector<Json> weights = json.has("earlier") ? json.at("earlier").elements() : std::vector<Json>();
  if (weights.empty()) {
    if (!(rule.a > 0 && rule.a <= max_slope))
      fail(REXIT_CORRUPT, json.where(), " a: is ", rule.a, ", expected more than 0 and at most ", max_slope);
    earlier.resize(earlier.size() + k);
    return;
  }
  if (weights.size() != k)
    fail(REXIT_CORRUPT, json.where(), " earlier: has ", weights.size(), " numbers, expected one per earlier exit, ", k);
  if (!(std::fabs(rule.a) <= max_slope))
    fail(REXIT_CORRUPT, json.where(), " a: is ", rule.a, ", expected ", -max_slope, " to ", max_slope);
  for (const Json& weight : weights) {
    earlier.push_back(weight.finite_float());
    if (!(std::fabs(earlier.back()) <= max_slope))
      fail(REXIT_CORRUPT, weight.where(), ": is ", earlier.back(), ", expected ", -max_slope, " to ", max_slope);
  }
}

std::vector<Json> read_exits(const Json& root, std::size_t exits) {
  const Json list = root.at("exits");
  std::vector<Json> elements = list.elements();
  if (elements.size() != exits) fail(REXIT_CORRUPT, list.where(), ": has ", elements.size(), ", the variant has ", exits);
  return elements;
}

}  // namespace

void read_rules(const Json& root, Policy& policy) {
  const std::vector<Json> exits = read_exits(root, policy.exits.size());
  policy.patience = root.at("patience").size(1, max_patience);
  policy.keep.clear();
  for (std::size_t k = 0; k < exits.size(); ++k) {
    const auto threshold = [&](const char* key) { return exits[k].has(key) ? exits[k].at(key).finite_float() : no_threshold; };
    policy.exits[k].upper = threshold("upper");
    policy.exits[k].lower = threshold("lower");
    policy.keep.push_back(exits[k].has("keep") ? exits[k].at("keep").size(1, max_candidates) : 0);
  }
  if (policy.keep.back() != 0) fail(REXIT_CORRUPT, exits.back().where(), ": has `keep`, but it is the last exit");
  if (std::all_of(policy.keep.begin(), policy.keep.end(), [](std::size_t keep) { return keep == 0; })) policy.keep.clear();
  policy.quorum = root.has("quorum") ? root.at("quorum").size(0, max_candidates) : 0;
  policy.top_k = {};
  if (!root.has("top_k")) return;
  const Json top_k = root.at("top_k");
  policy.top_k = {top_k.at("k").size(1, max_candidates), top_k.at("ordered").boolean(),
                  read_moves(top_k.at("rise"), exits.size()), read_moves(top_k.at("fall"), exits.size())};
}

Policy read_policy(const Json& root, std::size_t exits) {
  Policy policy;
  policy.exits.resize(exits);
  std::size_t k = 0;
  for (const Json& exit : read_exits(root, exits)) {
    read_map(exit, k, policy.exits[k], policy.earlier);
    ++k;
  }
  std::vector<float>& earlier = policy.earlier;
  if (std::all_of(earlier.begin(), earlier.end(), [](float weight) { return weight == 0; })) earlier.clear();
  if (root.has("prior_shift")) policy.prior_shift = read_prior_shift(root.at("prior_shift"));
  if (root.has("floor")) policy.floor = root.at("floor").at("c").finite_float();
  read_rules(root, policy);
  return policy;
}

}  // namespace rexit::core

#include "bundle/objectives.hpp"

#include <algorithm>
#include <cmath>

#include "base/status.hpp"

namespace rexit::core {
namespace {

bool is_plain(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

rexit_platt read_map(const Json& json) {
  const rexit_platt map{json.at("a").finite_float(), json.at("b").finite_float()};
  if (!(map.a > 0 && map.a <= max_slope))
    fail(REXIT_CORRUPT, json.where(), " a: is ", map.a, ", expected more than 0 and at most ", max_slope);
  if (!(std::fabs(map.b) <= max_intercept))
    fail(REXIT_CORRUPT, json.where(), " b: is ", map.b, ", expected ", -max_intercept, " to ", max_intercept);
  return map;
}

}  // namespace

std::vector<std::string> read_objectives(const Json& variant) {
  if (!variant.has("objectives")) return {};
  const Json json = variant.at("objectives");
  std::vector<std::string> names = json.strings();
  if (names.size() < min_objectives || names.size() > max_objectives)
    fail(REXIT_CORRUPT, json.where(), ": has ", names.size(), " names, expected ", min_objectives, " to ", max_objectives);
  for (std::size_t k = 0; k < names.size(); ++k) {
    const std::string& name = names[k];
    if (name.empty() || name.size() > max_objective_name || !std::all_of(name.begin(), name.end(), is_plain))
      fail(REXIT_CORRUPT, json.where(), "[", k, "]: is `", name.substr(0, max_objective_name), "`, expected 1 to ",
           max_objective_name, " letters, digits, _ or -");
    if (std::find(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(k), name) !=
        names.begin() + static_cast<std::ptrdiff_t>(k))
      fail(REXIT_CORRUPT, json.where(), ": has `", name, "` twice");
  }
  return names;
}

void read_utility(const Json& policy, const std::vector<std::string>& objectives, Policy& out) {
  if (objectives.empty()) {
    if (policy.has("utility"))
      fail(REXIT_MISMATCH, policy.at("utility").where(), ": is for several objectives, the variant has one: calibrate it again");
    return;
  }
  if (!policy.has("utility"))
    fail(REXIT_MISMATCH, policy.where(), ": has no `utility`, the variant has the objectives ", list(objectives),
         ": calibrate it again");
  const Json utility = policy.at("utility");
  if (utility.members().size() != objectives.size() ||
      !std::all_of(objectives.begin(), objectives.end(), [&](const std::string& name) { return utility.has(name.c_str()); }))
    fail(REXIT_MISMATCH, utility.where(), ": is for other objectives than the variant's, ", list(objectives),
         ": calibrate it again");
  for (const std::string& name : objectives) {
    const Json weight = utility.at(name.c_str());
    out.weights.push_back(weight.finite_float());
    if (!(std::fabs(out.weights.back()) <= max_weight))
      fail(REXIT_CORRUPT, weight.where(), ": is ", out.weights.back(), ", expected ", -max_weight, " to ", max_weight);
  }
  if (std::all_of(out.weights.begin(), out.weights.end(), [](float weight) { return weight == 0; }))
    fail(REXIT_CORRUPT, utility.where(), ": all weights are 0, expected another one");
  if (policy.has("prior_shift"))
    fail(REXIT_CORRUPT, policy.at("prior_shift").where(), ": the maps of several objectives hold it, expected no such key");
  for (const Json& exit : policy.at("exits").elements()) {
    const Json maps = exit.at("objectives");
    const std::vector<Json> elements = maps.elements();
    if (elements.size() != objectives.size())
      fail(REXIT_CORRUPT, maps.where(), ": has ", elements.size(), " maps, expected one per objective, ", objectives.size());
    for (const Json& map : elements) out.objective_maps.push_back(read_map(map));
  }
}

void set_default_utility(std::size_t objectives, std::size_t exits, Policy& out) {
  out.weights.assign(objectives, 1);
  out.objective_maps.assign(objectives * exits, rexit_platt{1, 0});
}

}  // namespace rexit::core

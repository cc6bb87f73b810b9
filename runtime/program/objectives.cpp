#include "objectives.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "failure.hpp"

namespace rexit::program {

namespace {

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::vector<float> in_order(const std::map<std::string, float>& weights, const std::vector<std::string>& objectives) {
  std::vector<std::string> names;
  for (const auto& [name, weight] : weights) names.push_back(name);
  if (objectives.empty()) throw Failure("weights has " + list(names) + ", the bundle has a single objective");
  std::vector<float> result;
  for (const std::string& name : objectives)
    if (const auto entry = weights.find(name); entry != weights.end()) result.push_back(entry->second);
  if (result.size() != objectives.size() || weights.size() != objectives.size())
    throw Failure("weights has " + (names.empty() ? "none" : list(names)) + ", expected " + list(objectives));
  return result;
}

}  // namespace

std::vector<std::string> objective_names(const Bundle& bundle) {
  std::vector<std::string> names;
  const std::size_t count = bundle.info().objectives;
  for (std::size_t k = 0; count != 1 && k < count; ++k) names.emplace_back(bundle.objective(k).name);
  return names;
}

std::vector<float> parse_weights(const std::string& text, const std::vector<std::string>& objectives) {
  std::map<std::string, float> weights;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const std::size_t equals = part.find('=');
    const std::string quoted = "weights '" + part + "', expected NAME=NUMBER, as in click=1,like=2";
    if (equals == part.npos || equals == 0 || equals + 1 == part.size()) throw Failure(quoted);
    char* rest = nullptr;
    const float weight = std::strtof(part.c_str() + equals + 1, &rest);
    if (*rest != '\0') throw Failure(quoted);
    if (!weights.emplace(part.substr(0, equals), weight).second)
      throw Failure("weights has " + part.substr(0, equals) + " twice");
    begin = end + 1;
  }
  return in_order(weights, objectives);
}

std::vector<float> parse_weights(const nlohmann::json& value, const std::vector<std::string>& objectives) {
  if (!value.is_object()) throw Failure(std::string("weights is ") + value.type_name() + ", expected an object");
  std::map<std::string, float> weights;
  for (const auto& [name, weight] : value.items()) {
    if (!weight.is_number()) throw Failure("weights '" + name + "' is " + weight.type_name() + ", expected a number");
    weights.emplace(name, weight.get<float>());
  }
  return in_order(weights, objectives);
}

}  // namespace rexit::program

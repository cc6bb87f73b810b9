#include "bundle/catalog/context.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <locale>
#include <numeric>
#include <sstream>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_values = 4096, listed_values = 10;
constexpr double max_integer = 9007199254740992.0;  // 2^53: doubles below it are exact

// nullopt unless all of `text` is a number, in any locale of the program.
std::optional<double> parse_number(std::string_view text) {
  std::istringstream stream{std::string(text)};
  stream.imbue(std::locale::classic());
  double number = 0;
  stream >> std::noskipws >> number;
  if (stream.fail() || stream.peek() != std::istringstream::traits_type::eof()) return std::nullopt;
  return number;
}

}  // namespace

Context::Context(const Json& json) : name_(json.at("name").string()) {
  const std::string& unknown = json.at("unknown").string();
  if (name_.empty()) fail(REXIT_CORRUPT, json.where(), " name: is empty");
  if (unknown != "refuse" && unknown != "missing")
    fail(REXIT_CORRUPT, json.at("unknown").where(), ": is `", unknown, "`, expected `refuse` or `missing`");
  refuses_ = unknown == "refuse";
  if (json.has("values") == json.has("bins")) fail(REXIT_CORRUPT, json.where(), ": expected either `values` or `bins`");
  if (json.has("values")) {
    values_ = json.at("values").strings();
    if (values_.empty() || values_.size() > max_values)
      fail(REXIT_CORRUPT, json.where(), " values: has ", values_.size(), ", expected 1 to ", max_values);
  } else {
    for (const Json& edge : json.at("bins").elements()) edges_.push_back(edge.finite_double());
    const auto not_ascending = [](double a, double b) { return a >= b; };
    if (edges_.size() < 2 || edges_.size() > max_values + 1 ||
        std::adjacent_find(edges_.begin(), edges_.end(), not_ascending) != edges_.end())
      fail(REXIT_CORRUPT, json.where(), " bins: expected 2 to ", max_values + 1, " ascending numbers");
  }
  by_value_.resize(values_.size());
  std::iota(by_value_.begin(), by_value_.end(), std::size_t{0});
  std::sort(by_value_.begin(), by_value_.end(), [this](std::size_t a, std::size_t b) { return values_[a] < values_[b]; });
  for (std::size_t i = 1; i < by_value_.size(); ++i)
    if (values_[by_value_[i - 1]] == values_[by_value_[i]])
      fail(REXIT_CORRUPT, json.where(), " values: `", values_[by_value_[i]], "` appears twice");
}

std::optional<std::int32_t> Context::find(std::string_view text) const {
  if (!edges_.empty()) {
    const std::optional<double> number = parse_number(text);
    return number ? find(*number) : std::nullopt;
  }
  const auto match = std::lower_bound(by_value_.begin(), by_value_.end(), text,
                                      [this](std::size_t index, std::string_view value) { return values_[index] < value; });
  if (match == by_value_.end() || values_[*match] != text) return std::nullopt;
  return static_cast<std::int32_t>(*match);
}

std::optional<std::int32_t> Context::find(double number) const {
  if (edges_.empty()) {
    if (!(std::fabs(number) < max_integer) || std::trunc(number) != number) return std::nullopt;
    char text[24];
    const auto end = std::to_chars(text, text + sizeof text, static_cast<std::int64_t>(number)).ptr;
    return find(std::string_view(text, static_cast<std::size_t>(end - text)));
  }
  if (!(number >= edges_.front() && number < edges_.back())) return std::nullopt;  // false for NaN
  return static_cast<std::int32_t>(std::upper_bound(edges_.begin(), edges_.end(), number) - edges_.begin() - 1);
}

std::string Context::expected() const {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  if (!edges_.empty()) {
    text << "a number from " << edges_.front() << " to below " << edges_.back();
    return text.str();
  }
  text << "one of ";
  for (std::size_t i = 0; i < std::min(values_.size(), listed_values); ++i) text << (i == 0 ? "" : ", ") << values_[i];
  if (values_.size() > listed_values) text << ", …";
  return text.str();
}

}  // namespace rexit::core

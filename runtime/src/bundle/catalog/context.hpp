// Contexts: what a request says of its moment, by name, and the values that prompts know.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files/json.hpp"

namespace rexit::core {

// One of catalog.json's `prompt.context`. It has either values or bins.
class Context {
 public:
  static constexpr std::int32_t missing = -1;  // the number of an unknown value

  // Throws REXIT_CORRUPT.
  explicit Context(const Json& json);

  const std::string& name() const noexcept { return name_; }
  bool refuses_unknown() const noexcept { return refuses_; }
  std::size_t size() const noexcept { return values_.empty() ? edges_.size() - 1 : values_.size(); }

  // The number of a value's entry or bin; nullopt if it is unknown. A whole number is the value that is written like it; of bins,
  // a text that is a number is that number.
  std::optional<std::int32_t> find(std::string_view text) const;
  std::optional<std::int32_t> find(double number) const;
  // What a value must be, for messages.
  std::string expected() const;

 private:
  std::string name_;
  std::vector<std::string> values_;
  std::vector<std::size_t> by_value_;  // indices of `values_`, ascending by value
  std::vector<double> edges_;          // bin i: edges_[i] <= number < edges_[i + 1]
  bool refuses_ = true;
};

}  // namespace rexit::core

// Inputs: what a request says besides user and items, by name, such as a device or a search query.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files/json.hpp"

namespace rexit::core {

// A value of an input as the prompt knows it: the number of an entry or a bin, or the ids of a text's tokens. Empty: missing.
using Codes = std::vector<std::int32_t>;

// One of catalog.json's `prompt.inputs`: a list of values, bins of a number, a number in digits, or a text of token ids. Every
// function throws REXIT_INVALID_ARGUMENT for a value that it refuses. The message begins with "inputs.NAME".
class Input {
 public:
  static constexpr std::size_t max_values = 4096, max_tokens = 4096, max_digits = 9;

  // Throws REXIT_CORRUPT.
  explicit Input(const Json& json);

  const std::string& name() const noexcept { return name_; }
  bool is_optional() const noexcept { return optional_; }
  bool is_text() const noexcept { return text_tokens_ != 0; }
  std::size_t max_codes() const noexcept;
  std::size_t size() const noexcept;  // codes are below it, unless it is a text

  // The codes of a value. A whole number is the entry that is written like it, and without entries a text that is a number is
  // that number. An optional input that does not know the value has no codes.
  void encode(std::string_view text, Codes& codes) const;
  void encode(double number, Codes& codes) const;
  // Checks the codes of a text, which are its token ids, below `vocabulary`.
  void check_tokens(const Codes& codes, std::size_t vocabulary) const;
  // Call for an input without codes: throws unless it is optional.
  void check_missing() const;
  [[noreturn]] void refuse(std::string_view value) const;

 private:
  bool is_list() const noexcept { return !values_.empty(); }
  // These append nothing for a value that the input does not know.
  void append_entry(std::string_view text, Codes& codes) const;
  void append_number(double number, Codes& codes) const;
  void append_digits(double number, Codes& codes) const;
  std::string expected() const;

  std::string name_;
  bool optional_;
  std::vector<std::string> values_;
  std::vector<std::size_t> by_value_;  // indices of `values_`, ascending by value
  std::vector<double> edges_;          // bin i: edges_[i] <= number < edges_[i + 1]
  int digits_ = 0;                     // of a number; 0: not a number in digits
  bool spaced_ = false;                // of digits: the first one has a code of its own
  std::size_t text_tokens_ = 0;        // most tokens of a text; 0: not a text
};

// A caller's text in a message, cut at 60 characters; without and with quotes.
std::string shortened(std::string_view text);
std::string quoted(std::string_view text);

}  // namespace rexit::core

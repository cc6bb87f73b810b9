#include "bundle/catalog/inputs.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <locale>
#include <numeric>
#include <sstream>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t listed_values = 10, max_characters = 60;
constexpr double max_integer = 9007199254740992.0;     // 2^53: doubles below it are exact
constexpr std::int32_t point = 10, spaced_digit = 11;  // codes of a number in digits; 0 to 9: digits

bool is_digit(char character) noexcept { return character >= '0' && character <= '9'; }

// [+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?
bool is_decimal(std::string_view text) noexcept {
  std::size_t at = 0;
  const auto skip = [&](std::string_view characters) {
    const bool found = at < text.size() && characters.find(text[at]) != characters.npos;
    if (found) ++at;
    return found;
  };
  const auto skip_digits = [&] {
    const std::size_t begin = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    return at - begin;
  };
  skip("+-");
  std::size_t digits = skip_digits();
  if (skip(".")) digits += skip_digits();
  if (digits == 0) return false;
  if (skip("eE")) {
    skip("+-");
    if (skip_digits() == 0) return false;
  }
  return at == text.size();
}

// nullopt unless all of `text` is a finite number, in any locale of the program.
std::optional<double> parse_number(std::string_view text) {
  if (!is_decimal(text)) return std::nullopt;
  std::istringstream stream{std::string(text)};
  stream.imbue(std::locale::classic());
  double number = 0;
  stream >> number;
  return stream.fail() ? std::nullopt : std::optional(number);
}

std::string number_text(double number) {
  const MessagePart part(number);
  return std::string(part.text());
}

}  // namespace

std::string shortened(std::string_view text) {
  std::size_t characters = 0, last = 0;  // `last`: where the last character that fits begins
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) continue;  // continues a character
    if (++characters == max_characters) last = i;
    if (characters > max_characters) return std::string(text.substr(0, last)) + "…";
  }
  return std::string(text);
}

std::string quoted(std::string_view text) { return shortened("'" + std::string(text.substr(0, 4 * max_characters)) + "'"); }

Input::Input(const Json& json)
    : name_(json.at("name").string()), optional_(json.has("optional") && json.at("optional").boolean()) {
  if (name_.empty()) fail(REXIT_CORRUPT, json.where(), " name: is empty");
  const int kinds = int{json.has("values")} + int{json.has("bins")} + int{json.has("digits")} + int{json.has("max_tokens")};
  if (kinds != 1)
    fail(REXIT_CORRUPT, json.where(), ": expected one of `values`, `bins`, `digits` and `max_tokens`, it has ", kinds);
  if (json.has("spaced") && !json.has("digits") && !json.has("max_tokens"))
    fail(REXIT_CORRUPT, json.where(), ": `spaced` needs `digits` or `max_tokens`");
  if (json.has("max_tokens")) {
    text_tokens_ = json.at("max_tokens").size(1, max_tokens);
  } else if (json.has("digits")) {
    digits_ = static_cast<int>(json.at("digits").size(1, max_digits));
    spaced_ = json.has("spaced") && json.at("spaced").boolean();
  } else if (json.has("values")) {
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

std::size_t Input::max_codes() const noexcept {
  if (is_text()) return text_tokens_;
  return digits_ == 0 ? 1 : static_cast<std::size_t>(digits_) + 2;  // "0." and the digits
}

std::size_t Input::size() const noexcept {
  if (digits_ != 0) return spaced_ ? spaced_digit + 10 : spaced_digit;
  return is_list() ? values_.size() : edges_.size() - 1;
}

void Input::encode(std::string_view text, Codes& codes) const {
  if (is_text()) fail(REXIT_INVALID_ARGUMENT, "inputs.", name_, " is a text, expected token ids: the library has no tokenizer");
  codes.clear();
  if (is_list())
    append_entry(text, codes);
  else if (const std::optional<double> number = parse_number(text))
    append_number(*number, codes);
  if (codes.empty() && !optional_) refuse(quoted(text));
}

void Input::encode(double number, Codes& codes) const {
  if (is_text()) fail(REXIT_INVALID_ARGUMENT, "inputs.", name_, " is ", number, ", expected a text or token ids");
  codes.clear();
  if (!is_list()) {
    append_number(number, codes);
  } else if (std::fabs(number) < max_integer && std::trunc(number) == number) {
    char text[24];
    const auto end = std::to_chars(text, text + sizeof text, static_cast<std::int64_t>(number)).ptr;
    append_entry(std::string_view(text, static_cast<std::size_t>(end - text)), codes);
  }
  if (codes.empty() && !optional_) refuse(number_text(number));
}

void Input::check_tokens(const Codes& codes, std::size_t vocabulary) const {
  if (codes.size() > text_tokens_)
    fail(REXIT_INVALID_ARGUMENT, "inputs.", name_, " has ", codes.size(), " tokens, expected at most ", text_tokens_);
  for (std::size_t t = 0; t < codes.size(); ++t)
    if (codes[t] < 0 || static_cast<std::size_t>(codes[t]) >= vocabulary)
      fail(REXIT_INVALID_ARGUMENT, "inputs.", name_, '[', t, "] is ", codes[t], ", expected a token id from 0 to ",
           vocabulary - 1);
}

void Input::check_missing() const {
  if (!optional_) fail(REXIT_INVALID_ARGUMENT, "inputs.", name_, " is missing, expected ", expected());
}

void Input::refuse(std::string_view value) const {
  fail(REXIT_INVALID_ARGUMENT, "inputs.", name_, " is ", value, ", expected ", expected());
}

void Input::append_entry(std::string_view text, Codes& codes) const {
  const auto match = std::lower_bound(by_value_.begin(), by_value_.end(), text,
                                      [this](std::size_t index, std::string_view value) { return values_[index] < value; });
  if (match != by_value_.end() && values_[*match] == text) codes.push_back(static_cast<std::int32_t>(*match));
}

void Input::append_number(double number, Codes& codes) const {
  if (digits_ != 0) return append_digits(number, codes);
  if (!(number >= edges_.front() && number < edges_.back())) return;  // NaN too
  codes.push_back(static_cast<std::int32_t>(std::upper_bound(edges_.begin(), edges_.end(), number) - edges_.begin() - 1));
}

void Input::append_digits(double number, Codes& codes) const {
  if (!(number >= 0)) return;  // NaN too
  int decimals = digits_;      // less those before the point
  for (double power = 1; decimals >= 0 && power <= number; power *= 10) --decimals;
  if (decimals < 0) return;  // 10^digits or more
  char text[24];
  const auto end = std::to_chars(text, text + sizeof text, std::fabs(number), std::chars_format::fixed, decimals).ptr;
  std::string_view written(text, static_cast<std::size_t>(end - text));
  if (decimals != 0) written.remove_suffix(written.size() - 1 - written.find_last_not_of('0'));
  if (written.back() == '.') written.remove_suffix(1);
  for (const char character : written) codes.push_back(character == '.' ? point : character - '0');
  if (spaced_) codes.front() += spaced_digit;
}

std::string Input::expected() const {
  if (is_text()) return "at most " + std::to_string(text_tokens_) + " tokens";
  if (digits_ != 0) return "a number from 0 to below 1" + std::string(static_cast<std::size_t>(digits_), '0');
  if (!is_list()) return "a number from " + number_text(edges_.front()) + " to below " + number_text(edges_.back());
  std::string list = "one of ";
  for (std::size_t i = 0; i < std::min(values_.size(), listed_values); ++i) list += (i == 0 ? "" : ", ") + values_[i];
  return values_.size() > listed_values ? list + ", …" : list;
}

}  // namespace rexit::core

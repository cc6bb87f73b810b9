// What an input takes, and the codes of it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/status.hpp"
#include "bundle/catalog/inputs.hpp"

namespace {

using rexit::core::Codes;
using rexit::core::Input;

constexpr std::size_t vocabulary = 64;

Input parse(const std::string& text) {
  const rexit::core::JsonDocument document(reinterpret_cast<const unsigned char*>(text.data()), text.size(), "file");
  return Input(document.root());
}

const Input device = parse(R"({"name": "device", "values": ["tv", "phone", "13"]})");
const Input hour = parse(R"({"name": "hour", "bins": [-1, 6, 24]})");
const Input query = parse(R"({"name": "query", "max_tokens": 3, "spaced": true})");
const Input price = parse(R"({"name": "price", "digits": 3})");
const Input spaced_price = parse(R"({"name": "price", "digits": 3, "spaced": true})");
const Input maybe = parse(R"({"name": "maybe", "bins": [0, 1], "optional": true})");

// The codes, or the message of the refusal.
template <class Value>
std::string coded(const Input& input, const Value& value) {
  try {
    Codes codes{77};
    input.encode(value, codes);
    std::string text;
    for (const std::int32_t code : codes) text += std::to_string(code) + ";";
    return text;
  } catch (const rexit::core::Error& error) {
    EXPECT_EQ(error.status(), REXIT_INVALID_ARGUMENT);
    return error.what();
  }
}

std::string tokens(const Input& input, const std::vector<std::int32_t>& ids) {
  try {
    Codes codes{77};
    input.encode(ids.data(), ids.size(), vocabulary, codes);
    return codes == ids ? "the tokens" : "others";
  } catch (const rexit::core::Error& error) {
    return error.what();
  }
}

TEST(Inputs, ValuesAreNumbersOfTheList) {
  EXPECT_EQ(coded(device, "tv"), "0;");
  EXPECT_EQ(coded(device, "13"), "2;");
  EXPECT_EQ(coded(device, 13.0), "2;");
  EXPECT_EQ(coded(device, "13.0"), "inputs.device is '13.0', expected one of tv, phone, 13");
  EXPECT_EQ(coded(device, 13.5), "inputs.device is 13.5, expected one of tv, phone, 13");
  EXPECT_EQ(coded(device, 1e300), "inputs.device is 1e+300, expected one of tv, phone, 13");
  EXPECT_EQ(coded(device, std::nan("")), "inputs.device is nan, expected one of tv, phone, 13");
}

TEST(Inputs, NumbersFallIntoBins) {
  EXPECT_EQ(coded(hour, -1.0), "0;");
  EXPECT_EQ(coded(hour, 6.0), "1;");
  EXPECT_EQ(coded(hour, 24.0), "inputs.hour is 24, expected a number from -1 to below 24");
  EXPECT_EQ(coded(hour, std::numeric_limits<double>::infinity()), "inputs.hour is inf, expected a number from -1 to below 24");
  EXPECT_EQ(coded(hour, std::nan("")), "inputs.hour is nan, expected a number from -1 to below 24");
}

TEST(Inputs, ATextIsANumberOnlyInDecimalSyntax) {
  for (const char* text : {"5", "+5", "5.", ".5", "-0.5", "5e0", "50E-1", "0.5e+1", "1e-400"})
    EXPECT_EQ(coded(hour, text), "0;") << text;
  for (const char* text :
       {"", " 5", "5 ", "1_0", "٣", "0x10", "inf", "nan", "1e400", "+-5", ".", "e5", "5e", "5e+", "5.5.5", "1,5"})
    EXPECT_EQ(coded(hour, text), "inputs.hour is '" + std::string(text) + "', expected a number from -1 to below 24") << text;
}

TEST(Inputs, ANumberIsItsDigits) {
  for (const auto& [number, codes] : std::vector<std::pair<double, const char*>>{{0, "0;"},
                                                                                 {-0.0, "0;"},
                                                                                 {1e-7, "0;"},
                                                                                 {0.0006, "0;10;0;0;1;"},
                                                                                 {0.9996, "1;"},
                                                                                 {1.99, "1;10;9;9;"},
                                                                                 {12.25, "1;2;10;2;"},
                                                                                 {120, "1;2;0;"},
                                                                                 {999.6, "1;0;0;0;"}})
    EXPECT_EQ(coded(price, number), codes) << number;
  EXPECT_EQ(coded(price, "1.990"), "1;10;9;9;");
  EXPECT_EQ(coded(spaced_price, 120.0), "12;2;0;");
  for (const auto& [number, text] : std::vector<std::pair<double, std::string>>{
           {1000, "1000"}, {-1, "-1"}, {std::nan(""), "nan"}, {std::numeric_limits<double>::infinity(), "inf"}})
    EXPECT_EQ(coded(price, number), "inputs.price is " + text + ", expected a number from 0 to below 1000");
  EXPECT_EQ(coded(price, "1_0"), "inputs.price is '1_0', expected a number from 0 to below 1000");
  EXPECT_EQ(tokens(price, {1}), "inputs.price is token ids, expected a number from 0 to below 1000");
  EXPECT_EQ(price.max_codes(), 5u);
  EXPECT_EQ(price.size(), 11u);
  EXPECT_EQ(spaced_price.size(), 21u);
}

TEST(Inputs, ATextIsItsTokens) {
  EXPECT_EQ(tokens(query, {0, 63, 5}), "the tokens");
  EXPECT_EQ(tokens(query, {1, 2, 3, 4}), "inputs.query has 4 tokens, expected at most 3");
  EXPECT_EQ(tokens(query, {1, 64}), "inputs.query[1] is 64, expected a token id from 0 to 63");
  EXPECT_EQ(tokens(query, {-1}), "inputs.query[0] is -1, expected a token id from 0 to 63");
  EXPECT_EQ(tokens(query, {}), "inputs.query is missing, expected at most 3 tokens");
  EXPECT_EQ(tokens(device, {1}), "inputs.device is token ids, expected one of tv, phone, 13");
  EXPECT_EQ(coded(query, "red"), "inputs.query is a text, expected token ids: the library has no tokenizer");
  EXPECT_EQ(coded(query, 5.0), "inputs.query is 5, expected a text or token ids");
}

TEST(Inputs, AnOptionalOneTakesWhatItDoesNotKnowAsMissing) {
  EXPECT_EQ(coded(maybe, 0.5), "0;");
  EXPECT_EQ(coded(maybe, 1.0), "");
  EXPECT_EQ(coded(maybe, "none"), "");
  Codes codes{77};
  maybe.encode_missing(codes);
  EXPECT_TRUE(codes.empty());
  EXPECT_THROW(device.encode_missing(codes), rexit::core::Error);
}

TEST(Inputs, LongValuesAreCutInMessages) {
  EXPECT_EQ(coded(device, std::string(10'000'000, 'x')),
            "inputs.device is '" + std::string(58, 'x') + "…, expected one of tv, phone, 13");
  EXPECT_EQ(rexit::core::shortened(std::string(60, 'x')), std::string(60, 'x'));
  EXPECT_EQ(rexit::core::quoted("ü"), "'ü'");
  std::string letters, expected = "'";
  for (int n = 0; n < 100; ++n) letters += "ü";
  for (int n = 0; n < 58; ++n) expected += "ü";
  EXPECT_EQ(rexit::core::quoted(letters), expected + "…");
}

}  // namespace

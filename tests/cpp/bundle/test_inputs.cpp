// What an input takes, and the codes of it.
#include <gtest/gtest.h>

#include <string>

#include "base/status.hpp"
#include "bundle/catalog/inputs.hpp"

namespace {

using rexit::core::Codes;
using rexit::core::Input;

Input parse(const std::string& text) {
  const rexit::core::JsonDocument document(reinterpret_cast<const unsigned char*>(text.data()), text.size(), "file");
  return Input(document.root());
}

const Input device = parse(R"({"name": "device", "values": ["tv", "phone", "13"]})");
const Input hour = parse(R"({"name": "hour", "bins": [-1, 6, 24]})");

// The codes, or the message of the refusal.
std::string coded(const Input& input, const std::string& value) {
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

TEST(Inputs, ATextIsANumberOnlyInDecimalSyntax) {
  for (const char* text : {"5", "+5", "5.", ".5", "-0.5", "5e0", "50E-1", "0.5e+1", "1e-400"})
    EXPECT_EQ(coded(hour, text), "0;") << text;
  for (const char* text :
       {"", " 5", "5 ", "1_0", "٣", "0x10", "inf", "nan", "1e400", "+-5", ".", "e5", "5e", "5e+", "5.5.5", "1,5"})
    EXPECT_EQ(coded(hour, text), "inputs.hour is '" + std::string(text) + "', expected a number from -1 to below 24") << text;
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

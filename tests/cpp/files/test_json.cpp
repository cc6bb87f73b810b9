// Bounds and types of JSON, and messages that name the place.
#include <gtest/gtest.h>

#include <string>

#include "base/status.hpp"
#include "files/json.hpp"

using rexit::core::Error;
using rexit::core::JsonDocument;

namespace {

JsonDocument parse(const std::string& text) { return {reinterpret_cast<const unsigned char*>(text.data()), text.size(), "file"}; }

template <class Read>
std::string refused(const std::string& text, Read read) {
  const JsonDocument document = parse(text);
  try {
    read(document.root());
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), REXIT_CORRUPT);
    return error.what();
  }
  return "nothing";
}

TEST(Json, ThirtyTwoLevelsAndNoMore) {
  EXPECT_NO_THROW(parse(std::string(32, '[') + std::string(32, ']')));
  EXPECT_THROW(parse(std::string(33, '[') + std::string(33, ']')), Error);
}

TEST(Json, TheLargestNumberOfValuesAndNoMore) {
  const auto list = [](std::size_t values) {  // the list is one of them
    std::string text = "[";
    for (std::size_t i = 2; i < values; ++i) text += "1,";
    return text + "1]";
  };
  EXPECT_NO_THROW(parse(list(65'536)));
  EXPECT_THROW(parse(list(65'537)), Error);
}

TEST(Json, WhatTheParserWouldPassOver) {
  const auto message = [](const std::string& text) {
    std::string message = "none";
    try {
      parse(text);
    } catch (const Error& error) {
      message = error.what();
    }
    return message;
  };
  EXPECT_EQ(message(std::string("{}\0x", 4)), "file: not valid JSON: byte 3 is a NUL");
  EXPECT_EQ(message("\xef\xbb\xbf{}"), "file: not valid JSON: it begins with a byte order mark");
  EXPECT_EQ(message(R"({"a": {"b": 1}, "b": [{"a": 1, "a": 2}]})"), "file: the key \"a\" appears twice in an object");
  EXPECT_EQ(message(R"({"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]})"), "none");
}

TEST(Json, IntegersAreIntegersWithinRange) {
  const auto read = [](const rexit::core::Json& root) { root.at("n").integer(-5, 5); };
  EXPECT_EQ(refused(R"({"n": 5})", read), "nothing");
  EXPECT_EQ(refused(R"({"n": 6})", read), "file n: is 6, expected -5 to 5");
  EXPECT_EQ(refused(R"({"n": 18446744073709551615})", read), "file n: is 18446744073709551615, expected -5 to 5");
  EXPECT_EQ(refused(R"({"n": 1.0})", read), "file n: is 1.0, expected an integer");
  EXPECT_EQ(refused(R"({"n": true})", read), "file n: is true, expected an integer");
  EXPECT_EQ(refused(R"({"n": null})", read), "file n: is null, expected an integer");
  EXPECT_EQ(refused(R"({})", read), "file: `n` is missing");
}

TEST(Json, FloatsAreFinite) {
  const auto read = [](const rexit::core::Json& root) { root.at("x").finite_float(); };
  EXPECT_EQ(refused(R"({"x": 1e39})", read), "file x: is too large for a float32");
  EXPECT_EQ(refused(R"({"x": "1"})", read), "file x: is \"1\", expected a number");
  EXPECT_THROW(parse(R"({"x": NaN})"), Error);
  EXPECT_THROW(parse(R"({"x": 1e999})"), Error);
}

}  // namespace

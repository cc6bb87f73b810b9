// What a request in JSON may say, and the line about what it may not.
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "api/json_request.hpp"
#include "base/status.hpp"

namespace {

using rexit::core::JsonRequest;

std::string refusal(std::string_view text) {
  try {
    JsonRequest request;
    request.read(text);
    return "none";
  } catch (const rexit::core::Error& error) {
    EXPECT_EQ(error.status(), REXIT_INVALID_ARGUMENT);
    return error.what();
  }
}

// Besides those of tests/refusals.
TEST(JsonRequest, WrongTypesAndRangesAreRefused) {
  const std::pair<const char*, const char*> rows[] = {
      {"null", "the request is null, expected an object"},
      {R"({"id": true})", "id is true, expected a string or a number"},
      {R"({"user": 1.5})", "user is 1.5, expected a 64-bit integer or a string"},
      {R"({"items": {}})", "items is an object, expected an array of ids"},
      {R"({"items": [1, null]})", "items[1] is null, expected a 64-bit integer or a string"},
      {R"({"items": [[1]]})", "items[0] is an array, expected a 64-bit integer or a string"},
      {R"({"recent": [1, {}]})", "recent[1] is an object, expected ITEM, [ITEM, true] or [ITEM, false]"},
      {R"({"recent": [[1, "true"]]})", "recent[0][1] is 'true', expected true or false"},
      {R"({"recent": [1, [true, 1]]})", "recent[1][0] is true, expected a 64-bit integer or a string"},
      {R"({"recent": [[]]})", "recent[0] has fewer than 2 values, expected ITEM, [ITEM, true] or [ITEM, false]"},
      {R"({"recent": [[1, {}]]})", "recent[0][1] is an object, expected true or false"},
      {R"({"as_of": 1.0})", "as_of is 1.0, expected a 64-bit integer"},
      {R"({"inputs": []})", "inputs is an array, expected an object of values by name"},
      {R"({"inputs": {"a": true}})", "inputs.a is true, expected a string, a number or an array of token ids"},
      {R"({"inputs": {"a": {}}})", "inputs.a is an object, expected a string, a number or an array of token ids"},
      {R"({"inputs": {"a": [1, "x"]}})", "inputs.a[1] is 'x', expected a token id"},
      {R"({"inputs": {"a": [2147483648]}})", "inputs.a[0] is 2147483648, expected a token id"},
      {R"({"prefix": [1.5]})", "prefix[0] is 1.5, expected a token id"},
      {R"({"scores": [1, true]})", "scores[1] is true, expected a number"},
      {R"({"items": [1], "scores": [1, 2]})", "scores has 2 numbers, expected one for each of items, 1"},
      {R"({"candidates": [1]})", "candidates[0] is 1, expected an array of token ids"},
      {R"({"candidates": [[1], [2, null]]})", "candidates[1][1] is null, expected a token id"},
      {R"({"top_k": 2147483648})", "top_k is 2147483648, expected an integer from 0 to 2147483647"},
      {R"({"deadline_ms": 1.1e12})", "deadline_ms is 1.1e12, expected a number above 0 and at most 1e12"},
      {R"({"deadline_ms": "5"})", "deadline_ms is '5', expected a number above 0 and at most 1e12"},
      {R"({"force_exit": -1})", "force_exit is -1, expected an integer from 0 to 2147483647"},
  };
  for (const auto& [text, message] : rows) EXPECT_EQ(refusal(text), message) << text;
}

TEST(JsonRequest, ANulIsRefusedWhereAStringWouldEnd) {
  EXPECT_EQ(refusal(R"({"inputs": {"a\u0000b": 1}})"), "the name of an input has a NUL, expected text without one");
  EXPECT_EQ(refusal(R"({"id": "a\u0000b"})"), "none");
  EXPECT_EQ(refusal(R"({"\u0000": 1})").rfind(" : a request has no such field", 0), 0u);
  EXPECT_EQ(refusal(R"({"top_k": "\u0000"})"), "top_k is ' ', expected an integer from 0 to 2147483647");
}

TEST(JsonRequest, SizesAreBounded) {
  EXPECT_EQ(refusal(R"({"items": [)" + std::string(100'000, '[')), "items[0] is an array, expected a 64-bit integer or a string");
  EXPECT_EQ(refusal("{\"id\": \"" + std::string(17'000'000, 'x') + "\"}"),
            "the request has 17000010 bytes, expected at most 16777216");
  EXPECT_EQ(refusal(R"({"top_k": ")" + std::string(1'000'000, 'x') + "\"}"),
            "top_k is '" + std::string(58, 'x') + "…, expected an integer from 0 to 2147483647");
}

}  // namespace

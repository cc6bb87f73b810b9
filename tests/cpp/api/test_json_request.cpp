// What a request in JSON may say, and the line about what it may not.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

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

TEST(JsonRequest, HasIdsAndInputs) {
  JsonRequest json;
  json.read(R"({"recent": [5, [6, false], [7, true]], "id": "aü\"\n", "user": -3, "items": [1, 9223372036854775807],
               "as_of": -9223372036854775808, "top_k": 2147483647, "deadline_ms": 0.25, "force_exit": 1, "prefix": null,
               "inputs": {"device": "tv", "none": null, "hour": 21, "half": 0.5, "huge": 9007199254740993, "query": [4, 5],
                          "empty": []}})");
  const rexit_request& request = json.request();
  EXPECT_EQ(json.id(), R"("aü\"\n")");
  EXPECT_EQ(request.tokens, nullptr);
  EXPECT_EQ(request.user->number, -3);
  ASSERT_EQ(request.item_count, 2u);
  EXPECT_EQ(request.items[1].number, INT64_MAX);
  ASSERT_EQ(request.recent_count, 3u);
  EXPECT_EQ(request.recent_items[2].number, 7);
  EXPECT_EQ(std::vector<int>(request.recent_liked, request.recent_liked + 3), (std::vector<int>{1, 0, 1}));
  EXPECT_EQ(request.has_as_of, 1);
  EXPECT_EQ(request.as_of, INT64_MIN);
  EXPECT_EQ(request.top_k, 2147483647u);
  EXPECT_EQ(request.deadline_us, 250);
  EXPECT_EQ(request.has_force_exit, 1);
  EXPECT_EQ(request.force_exit, 1u);
  ASSERT_EQ(request.input_count, 6u);
  EXPECT_STREQ(request.inputs[0].name, "device");
  EXPECT_STREQ(request.inputs[0].text, "tv");
  EXPECT_EQ(request.inputs[1].number, 21);
  EXPECT_EQ(request.inputs[2].number, 0.5);
  EXPECT_EQ(request.inputs[3].number, 9007199254740992.0);  // as for every other caller
  EXPECT_EQ(std::vector<std::int32_t>(request.inputs[4].tokens, request.inputs[4].tokens + 2), (std::vector<std::int32_t>{4, 5}));
  EXPECT_NE(request.inputs[5].tokens, nullptr);
  EXPECT_EQ(request.inputs[5].token_count, 0u);
}

TEST(JsonRequest, HasTokens) {
  JsonRequest json;
  json.read(R"({"prefix": [1, 2], "candidates": [[3], [4, 5], []], "id": 12345678901234567890123, "user": null})");
  const rexit_request& request = json.request();
  EXPECT_EQ(json.id(), "12345678901234567890123");
  EXPECT_EQ(request.user, nullptr);
  ASSERT_NE(request.tokens, nullptr);
  EXPECT_EQ(request.tokens->prefix_count, 2u);
  ASSERT_EQ(request.tokens->candidate_count, 3u);
  EXPECT_EQ(request.tokens->candidate_counts[1], 2u);
  EXPECT_EQ(request.tokens->candidate_counts[2], 0u);
  EXPECT_EQ(request.tokens->candidates[2], 5);
}

TEST(JsonRequest, IsReadAnew) {
  JsonRequest json;
  json.read(R"({"id": 1, "user": "u", "items": ["a"], "recent": ["b"], "inputs": {"x": 1}, "as_of": 1, "force_exit": 1,
                "deadline_ms": 1})");
  json.read(R"({"candidates": [[1]]})");
  EXPECT_NE(json.request().tokens, nullptr);
  json.read("{}");
  const rexit_request& request = json.request();
  EXPECT_EQ(json.id(), "");
  EXPECT_EQ(request.tokens, nullptr);
  EXPECT_EQ(request.user, nullptr);
  EXPECT_EQ(request.item_count + request.recent_count + request.input_count, 0u);
  EXPECT_EQ(request.has_as_of + request.has_force_exit, 0);
  EXPECT_EQ(request.deadline_us, 0);
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

TEST(JsonRequest, InvalidJsonIsRefused) {
  for (const char* text :
       {"", " ", "{", R"({"user": 1,})", R"({"user": 1} {})", R"({"user": 01})", R"({"user": NaN})", R"({"deadline_ms": 1e400})",
        R"({"deadline_ms": Infinity})", R"({"user": "\ud800"})", R"({"user": "\udc00x"})", "{\"user\": \"\xff\"}",
        "{\"user\": \"\xed\xa0\x80\"}", "{\"user\": \"a\nb\"}", "{'user': 1}"})
    EXPECT_EQ(refusal(text).rfind("not valid JSON: ", 0), 0u) << text << ": " << refusal(text);
  EXPECT_EQ(refusal(std::string_view("{\"user\": \"a\0b\"}", 14)).rfind("not valid JSON: ", 0), 0u);
}

TEST(JsonRequest, SizesAreBounded) {
  EXPECT_EQ(refusal(R"({"items": [)" + std::string(100'000, '[')), "items[0] is an array, expected a 64-bit integer or a string");
  EXPECT_EQ(refusal("{\"id\": \"" + std::string(17'000'000, 'x') + "\"}"),
            "the request has 17000010 bytes, expected at most 16777216");
  EXPECT_EQ(refusal(R"({"top_k": ")" + std::string(1'000'000, 'x') + "\"}"),
            "top_k is '" + std::string(58, 'x') + "…, expected an integer from 0 to 2147483647");
}

TEST(JsonRequest, TokenIdsStandForItsTexts) {
  static constexpr std::int32_t tokens[] = {4, 5};
  const rexit_input query{"query", nullptr, tokens, 2, 0}, device{"device", nullptr, tokens, 2, 0};
  JsonRequest json;
  json.read(R"({"inputs": {"query": "red shoes", "device": 5}})");
  json.set_texts(&query, 1, sizeof query);
  EXPECT_EQ(json.request().inputs[0].text, nullptr);
  EXPECT_EQ(json.request().inputs[0].tokens, tokens);
  EXPECT_EQ(json.request().inputs[0].token_count, 2u);
  for (const rexit_input& text : {query, device}) EXPECT_THROW(json.set_texts(&text, 1, sizeof text), rexit::core::Error);
}

}  // namespace

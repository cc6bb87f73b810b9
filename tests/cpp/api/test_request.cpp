// Requests through the public headers: what the builder writes, what the library refuses, and the memory of both. Every refusal:
// tests/refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

using rexit::Bundle;
using rexit::CallOptions;
using rexit::Id;
using rexit::Policy;
using rexit::Request;
using rexit::Session;

constexpr float never = std::numeric_limits<float>::infinity();

class RequestTest : public testing::Test {
 protected:
  std::string refusal(std::string_view request, const CallOptions& options = {}) {
    try {
      session.score(request, options);
      return "none";
    } catch (const rexit::Error& error) {
      EXPECT_EQ(error.status(), REXIT_INVALID_ARGUMENT);
      return error.what();
    }
  }

  Session session{Bundle(sound_bundle())};
};

// Besides those of tests/refusals.
TEST_F(RequestTest, WrongTypesAndRangesAreRefused) {
  const std::pair<const char*, const char*> rows[] = {
      {"null", "the request is null, expected an object"},
      {R"({"id": true})", "id is true, expected a string or a number"},
      {R"({"user": 1.5})", "user is 1.5, expected a 64-bit integer or a string"},
      {R"({"items": {}})", "items is an object, expected an array of ids"},
      {R"({"items": [8, null]})", "items[1] is null, expected a 64-bit integer or a string"},
      {R"({"items": [[1]]})", "items[0] is an array, expected a 64-bit integer or a string"},
      {R"({"recent": [8, {}]})", "recent[1] is an object, expected ITEM, [ITEM, true] or [ITEM, false]"},
      {R"({"recent": [[8, "true"]]})", "recent[0][1] is 'true', expected true or false"},
      {R"({"recent": [8, [true, 1]]})", "recent[1][0] is true, expected a 64-bit integer or a string"},
      {R"({"recent": [[]]})", "recent[0] has fewer than 2 values, expected ITEM, [ITEM, true] or [ITEM, false]"},
      {R"({"recent": [[8, {}]]})", "recent[0][1] is an object, expected true or false"},
      {R"({"recent": [8, [8, true, 8]]})", "recent[1] has more than 2 values, expected ITEM, [ITEM, true] or [ITEM, false]"},
      {R"({"as_of": 1.0})", "as_of is 1.0, expected a 64-bit integer"},
      {R"({"inputs": []})", "inputs is an array, expected an object of values by name"},
      {R"({"inputs": {"a": 1}})", "inputs.a: the prompt has no such input, it has none"},
      {R"({"prefix": [1.5]})", "prefix[0] is 1.5, expected a token id"},
      {R"({"prefix": [2147483648]})", "prefix[0] is 2147483648, expected a token id"},
      {R"({"scores": [1]})", "scores is an array, expected an object of arrays of numbers by name"},
      {R"({"scores": {"bm25": [1]}})", "scores.bm25: exit zero reads no such score, it reads none"},
      {R"({"candidates": [1]})", "candidates[0] is 1, expected an array of token ids"},
      {R"({"candidates": [[1], [2, null]]})", "candidates[1][1] is null, expected a token id"},
      {R"({"candidates": []})", "candidates is empty, expected at least one list of token ids"},
      {R"({"prefix": [1]})", "candidates is empty, expected at least one list of token ids"},
      {R"({"candidates": [[1]], "as_of": 3})", "as_of is set, but the request is token ids: expected either ids or token ids"},
      {R"({"top_k": 2147483648})", "top_k is 2147483648, expected an integer from 0 to 2147483647"},
      {R"({"deadline_ms": 1.1e12})", "deadline_ms is 1.1e12, expected a number above 0 and at most 1e12"},
      {R"({"deadline_ms": "5"})", "deadline_ms is '5', expected a number above 0 and at most 1e12"},
      {R"({"force_exit": -1})", "force_exit is -1, expected an integer from 0 to 2147483647"},
      {R"({"force_exit": 3})", "force_exit is 3, the bundle has exits 0 to 2"},
      {R"({"\u0000": 1})", " : a request has no such field"},
      {R"({"top_k": "\u0000"})", "top_k is ' ', expected an integer from 0 to 2147483647"},
  };
  for (const auto& [text, message] : rows) EXPECT_EQ(refusal(text).rfind(message, 0), 0u) << text << ": " << refusal(text);
}

TEST_F(RequestTest, SizesAreBounded) {
  EXPECT_EQ(refusal(R"({"items": [)" + std::string(100'000, '[')), "items[0] is an array, expected a 64-bit integer or a string");
  EXPECT_EQ(refusal("{\"id\": \"" + std::string(68'000'000, 'x') + "\"}"),
            "the request has 68000010 bytes, expected at most 67108864");
  EXPECT_EQ(refusal(R"({"top_k": ")" + std::string(1'000'000, 'x') + "\"}"),
            "top_k is '" + std::string(58, 'x') + "…, expected an integer from 0 to 2147483647");
}

TEST_F(RequestTest, OptionsAreChecked) {
  const std::string request = R"({"user": 106, "items": [8], "force_exit": 2})";
  EXPECT_EQ(refusal(request, {0, 0, {}, 3}), "force_exit is 3, the bundle has exits 0 to 2");
  EXPECT_EQ(refusal(request, {-1}), "options.waited_us is -1, expected 0 or more");
  EXPECT_EQ(refusal(request, {0, -1}), "options.deadline_us is -1, expected 0 or more");
  EXPECT_EQ(session.score(request, {0, 0, {}, 1}).scores[0].exit, 1u);
  refused([&] { session.score(request, {1000, 1000}); }, REXIT_DEADLINE, "the deadline passed while the request waited");
}

// By the reader of policy.json, whose rows of damage are tests/damage/policies.py.
TEST_F(RequestTest, APolicyIsRead) {
  const Request request = Request(106).items({8});
  const std::pair<const char*, const char*> rows[] = {
      {"[", "policy: not valid JSON: "},
      {"{}", "policy: `exits` is missing"},
      {R"({"patience": 1, "patience": 2})", "policy: the key \"patience\" appears twice in an object"},
      {R"({"patience": 1, "exits": [{}]})", "policy exits: has 1, the variant has 3"},
      {R"({"patience": 0, "exits": [{}, {}, {}]})", "policy patience: is 0, expected 1 to 1024"},
      {R"({"patience": 1, "exits": [{}, {"upper": "x"}, {}]})", "policy exits[1] upper: is \"x\", expected a number"},
      {R"({"patience": 1, "exits": [{}, {}, {"keep": 1}]})", "policy exits[2]: has `keep`, but it is the last exit"},
  };
  for (const auto& [policy, message] : rows) EXPECT_EQ(refusal(request.json(), {0, 0, policy}).rfind(message, 0), 0u) << policy;
  const auto exit_of = [&](const Policy& policy) { return session.score(request, {0, 0, policy.json()}).scores[0].exit; };
  EXPECT_EQ(exit_of({{never, 0, never}, {never, 0, never}}), 1u);
  EXPECT_EQ(exit_of({{-never, never, never}, {never, never, never}}), 0u) << "every c exceeds -infinity";
  EXPECT_EQ(exit_of({{never, never, never}, {never, never, never}, 1, 1}), 0u) << "a quorum of the whole slate";
  EXPECT_EQ(exit_of({{never, never, never}, {never, never, never}, 1, 0, rexit::TopK{1, false, {0, 0}, {0, 0}}}), 0u);
  EXPECT_THROW(Policy({{std::nanf(""), 0, 0}, {0, 0, 0}}).json(), std::invalid_argument);
  EXPECT_THROW(Policy({{0, 0}, {0, 0, 0}}).json(), std::invalid_argument);
}

// How many answers there are is not the rule's K: with that of the request, every candidate would be among the best K.
TEST_F(RequestTest, TheNumberOfAnswersChangesNoExit) {
  const std::vector<Id> items = {-7, 3, 8, 18, 88};
  const CallOptions best_two{
      0, 0, Policy{{never, never, never}, {never, never, never}, 1, 0, rexit::TopK{2, false, {9, 9}, {9, 9}}}.json()};
  const rexit::Scores all = session.score(Request(106).items(items), best_two);
  EXPECT_GT(all.scores[0].exit, 0u) << "nobody is certain after the first exit";
  for (const std::size_t k : {1u, 2u, 4u, 5u, 99u}) {
    const rexit::Scores best = session.score(Request(106).items(items).top_k(k), best_two);
    ASSERT_EQ(best.scores.size(), std::min<std::size_t>(k, 5));
    for (const rexit_score& score : best.scores) EXPECT_EQ(score.exit, all.scores[score.item].exit) << "top_k " << k;
  }
}

TEST_F(RequestTest, CandidatesAreNamed) {
  const auto items_of = [](Session& of, std::size_t count) {
    std::vector<Id> ids;
    for (std::size_t i = 0; i < count; ++i) ids.push_back(of.item(i));
    return ids;
  };
  const auto none_left = [](Session& of, std::size_t count) {
    refused([&] { of.item(count); }, REXIT_INVALID_ARGUMENT,
            "candidate is " + std::to_string(count) + ", the session's last request had " + std::to_string(count));
  };
  none_left(session, 0);
  const Request named = Request(106).items({88, 3, 8});
  session.score(named);
  EXPECT_EQ(items_of(session, 3), (std::vector<Id>{88, 3, 8}));
  none_left(session, 3);
  EXPECT_EQ(Request("a \"b\"", {"c", "\n"}).top_k(1).json(), R"({"query":"a \"b\"","documents":["c","\u000a"],"top_k":1})");
  EXPECT_THROW(session.rerank("a", {"b"}), rexit::Error);  // it has a catalog
  for (const double number : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(Request(106).input("hour", number), std::invalid_argument) << "null would be a missing input";
    EXPECT_THROW(Request(106).deadline_ms(number), std::invalid_argument) << "null would be no deadline";
  }
  const Request retrieving = Request(106).retrieve(5).recent({8});
  EXPECT_EQ(session.score(retrieving).scores.size(), 5u);
  const std::vector<Id> items = items_of(session, 5);
  const std::vector<float> log_odds = session.trace(retrieving).log_odds;
  EXPECT_EQ(items_of(session, 5), items);
  EXPECT_EQ(log_odds, session.trace(Request(106).items(items).recent({8})).log_odds);
  EXPECT_EQ(session.prompt(retrieving).ends.size(), 6u);
  for (const Id& id : items) EXPECT_NE(id, Id(8)) << "met";
  session.score(Request(rexit::Tokens{{3}, {{5}, {6, 7}}}));
  EXPECT_EQ(items_of(session, 2), (std::vector<Id>{0, 1})) << "token ids have numbers";
  none_left(session, 2);
  refusal(R"({"user": 5, "retrieve": 3})");
  none_left(session, 0);
  session.score(named);
  session.trim();
  none_left(session, 0);
  Session texts{Bundle(bundles() + "/sound_with_string_ids/bundle")};
  texts.score(Request(Id("Z-ü0001")).retrieve(2));
  for (const Id& id : items_of(texts, 2)) EXPECT_EQ(std::get<std::string>(id).find("-ü00"), 1u);
}

TEST_F(RequestTest, WhatIsNoNumberIsNotRetrieved) {
  Session damaged{Bundle(bundles() + "/embedding_of_a_candidate_that_is_nan/bundle")};
  refused([&] { damaged.score(Request(106).retrieve(3)); }, REXIT_CORRUPT, "`embeddings` of item row");
}

TEST(RequestBuilder, WritesWhatItIsTold) {
  EXPECT_EQ(Request(1).retrieve(200).top_k(10).json(), R"({"user":1,"retrieve":200,"top_k":10})");
  EXPECT_EQ(Request(1).items({Id("a\"\\\n\x1f"), 7}).recent({3, Id("ü")}, {1, 0}).as_of(-5).json(),
            R"({"user":1,"items":["a\"\\\u000a\u001f",7],"recent":[3,["ü",false]],"as_of":-5})");
  EXPECT_EQ(
      Request(Id("u")).items({}).input("device", std::string("tv")).input("hour", 0.1).input("query", std::vector{4, 5}).json(),
      R"({"user":"u","items":[],"inputs":{"device":"tv","hour":0.1,"query":[4,5]}})");
  EXPECT_EQ(
      Request(rexit::Tokens{{3}, {{5}, {6, 7}}})
          .scores("bm25", {0.1f, -1e30f, NAN})
          .scores("age", {1})
          .top_k(1)
          .deadline_ms(2.5)
          .force_exit(0)
          .json(),
      R"({"prefix":[3],"candidates":[[5],[6,7]],"top_k":1,)"
      R"("deadline_ms":2.5,"force_exit":0,"scores":{"bm25":[0.10000000149011612,-1.0000000150474662e+30,null],"age":[1]}})");
  EXPECT_THROW(Request(1).scores("bm25", {never}), std::invalid_argument);
  EXPECT_THROW(Request(1).recent({3, 8}, {1}), std::invalid_argument);
}

TEST_F(RequestTest, AStringMayHoldANul) {
  const std::string nul("a\0b", 3);
  EXPECT_EQ(Request(Id(nul)).json(), R"({"user":"a\u0000b"})");
  EXPECT_EQ(refusal(Request(Id(nul)).items({8}).json()), "user is 'a b', the catalog's ids are integers");
}

TEST_F(RequestTest, ItsMemoryIsCountedAndThatOfALongRequestReleased) {
  const Request request = Request(106).items({8});
  session.score_json(request.json());
  const std::size_t before = session.memory().buffers;
  const auto many = [](std::size_t count) {
    return Request(rexit::Tokens{{}, std::vector<std::vector<std::int32_t>>(1, std::vector<std::int32_t>(count, 1))});
  };
  refused([&] { session.score(many(100'000)); }, REXIT_TOO_LONG, "candidates[0] has 100000 tokens");
  EXPECT_GE(session.memory().buffers, before + 100'000 * sizeof(std::int32_t));
  refused([&] { session.score(many(1'000'000)); }, REXIT_TOO_LONG, "candidates[0] has 1000000 tokens");
  session.score_json(R"({"id":")" + std::string(2'000'000, 'a') + "\"," + request.json().substr(1));
  EXPECT_GE(session.memory().buffers, before + 2'000'000) << "its answer has its id";
  session.score(request);
  EXPECT_LE(session.memory().buffers, before + 10'000);
}

TEST_F(RequestTest, AFailureWritesNothingAndTheSessionGoesOn) {
  const char* answer = nullptr;
  std::size_t bytes = 77;
  rexit_stats stats;
  std::memset(&stats, 0x5a, sizeof stats);
  const std::string bad = R"({"user": 106, "items": [4]})";
  EXPECT_EQ(rexit_session_score_json(session.get(), bad.data(), bad.size(), nullptr, &answer, &bytes, &stats),
            REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(answer, nullptr);
  EXPECT_EQ(bytes, 77u);
  EXPECT_EQ(stats.candidates, 0x5a5a5a5a5a5a5a5au);
  EXPECT_EQ(rexit_session_score_json(session.get(), nullptr, 5, nullptr, &answer, &bytes, nullptr), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "request is NULL");
  EXPECT_EQ(rexit_session_score_json(session.get(), nullptr, 0, nullptr, &answer, &bytes, nullptr), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(rexit_session_score_json(session.get(), R"({"user": 5, "items": [8]})", 25, nullptr, &answer, &bytes, nullptr),
            REXIT_OK);
  EXPECT_EQ(std::strlen(answer), bytes);
}

}  // namespace

// Requests and answers in JSON, through the public headers.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

using rexit::Bundle;
using rexit::Id;
using rexit::JsonOptions;
using rexit::Request;
using rexit::Session;

const std::vector<Id> slate = {std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}};

std::string number(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

// The value behind the key's first place in an answer.
std::string at(const std::string& answer, const std::string& key, std::size_t from = 0) {
  const std::size_t begin = answer.find("\"" + key + "\":", from);
  if (begin == std::string::npos) return "missing";
  const std::size_t value = begin + key.size() + 3;
  return answer.substr(value, answer.find_first_of(",}", value) - value);
}

TEST(ScoreJson, AnswersAsScoreDoes) {
  Session session{Bundle(sound_bundle())};
  const auto expected = session.score(Request(std::int64_t{106}).items(slate).top_k(2));
  const auto answer = session.score_json(R"({"id": "a\"b", "user": 106, "items": [-7, 8, 88], "top_k": 2})");
  EXPECT_EQ(answer.text.rfind(R"({"id":"a\"b","user":106,"variant":"cpu-fp32","known":true,"scores":[{"item":)", 0), 0u)
      << answer.text;
  std::size_t begin = answer.text.find("\"scores\"");
  for (const rexit_score& score : expected.scores) {
    begin = answer.text.find("{\"item\"", begin + 1);
    EXPECT_EQ(at(answer.text, "item", begin), std::to_string(std::get<std::int64_t>(slate[score.item])));
    EXPECT_EQ(number(std::stod(at(answer.text, "probability", begin))), number(static_cast<double>(score.probability)));
    EXPECT_EQ(number(std::stod(at(answer.text, "log_odds", begin))), number(static_cast<double>(score.log_odds)));
    EXPECT_EQ(at(answer.text, "exit", begin), std::to_string(score.exit));
    EXPECT_EQ(at(answer.text, "cut_short", begin), "false");
  }
  EXPECT_EQ(at(answer.text, "candidate_tokens"), std::to_string(answer.stats.candidate_tokens));
  EXPECT_EQ(at(answer.text, "queue_us"), "0");
  EXPECT_EQ(answer.stats.candidates, 3u);
  EXPECT_EQ(answer.stats.cut_short, 0u);
}

TEST(ScoreJson, TokensHaveNeitherUserNorKnown) {
  Session session{Bundle(bundles() + "/no_catalog/bundle")};
  const std::string answer = session.score_json(R"({"prefix": [1, 2, 3], "candidates": [[4], [5, 6]]})").text;
  EXPECT_EQ(answer.rfind(R"({"variant":"cpu-fp32","scores":[{"item":0,)", 0), 0u) << answer;
  EXPECT_EQ(at(answer, "known"), "missing");
  refused([&] { session.score_json(R"({"user": 106, "items": [8]})"); }, REXIT_INVALID_ARGUMENT, "the bundle has no catalog");
}

TEST(ScoreJson, ObjectivesAreNamed) {
  Session session{Bundle(bundles() + "/sound_with_objectives/bundle")};
  const auto expected = session.score(Request(std::int64_t{106}).items({slate[0]}));
  const std::string answer = session.score_json(R"({"user": 106, "items": [-7]})").text;
  EXPECT_NE(answer.find("\"objectives\":{\"click\":"), std::string::npos) << answer;
  EXPECT_EQ(number(std::stod(at(answer, "like"))), number(static_cast<double>(expected.probabilities[1])));
}

TEST(ScoreJson, InputsReachThePrompt) {
  Session session{Bundle(bundles() + "/sound_input/bundle")};
  const auto log_odds = [&](const std::string& inputs) {
    return at(session.score_json(R"({"user": 106, "items": [8], "inputs": )" + inputs + "}").text, "log_odds");
  };
  const std::string tv = log_odds(R"({"device": "tv"})");
  EXPECT_NE(tv, log_odds(R"({"device": "phone"})"));
  EXPECT_EQ(log_odds("{}"), log_odds(R"({"device": null})"));
  EXPECT_EQ(log_odds("null"), log_odds(R"({"device": "radio"})"));
  refused([&] { log_odds(R"({"page": 1})"); }, REXIT_INVALID_ARGUMENT,
          "inputs.page: the prompt has no such input, it has: device");
  const auto by_struct = session.score(Request(std::int64_t{106}).items({slate[1]}).input("device", "tv"));
  EXPECT_EQ(number(std::stod(tv)), number(static_cast<double>(by_struct.scores[0].log_odds)));
}

TEST(ScoreJson, OptionsTakeThePlaceOfTheRequests) {
  Session session{Bundle(sound_bundle())};
  const std::string request = R"({"user": 106, "items": [8], "force_exit": 2})";
  JsonOptions options;
  options.force_exit = 0;
  options.waited_us = 1234;
  const std::string answer = session.score_json(request, options).text;
  EXPECT_EQ(at(answer, "exit"), "0");
  EXPECT_EQ(at(answer, "queue_us"), "1234");
  options.force_exit = 3;
  refused([&] { session.score_json(request, options); }, REXIT_INVALID_ARGUMENT, "force_exit is 3, the bundle has exits 0 to 2");
  options = {};
  options.policy = rexit::Policy{{0, 0, 0}, {0, 0, 0}};
  EXPECT_EQ(at(session.score_json(R"({"user": 106, "items": [8]})", options).text, "exit"), "0");
  options = {};
  options.texts = {{"query", {1}}};
  refused([&] { session.score_json(request, options); }, REXIT_INVALID_ARGUMENT,
          "options.texts[0]: the request has no text `query`");
  options = {};
  options.waited_us = -1;
  refused([&] { session.score_json(request, options); }, REXIT_INVALID_ARGUMENT, "options.waited_us is -1, expected 0 or more");
}

TEST(ScoreJson, ADeadlineCountsFromTheArrival) {
  Session session{Bundle(sound_bundle())};
  JsonOptions options;
  options.waited_us = 2000;
  const std::string request = R"({"user": 106, "items": [8], "deadline_ms": 2})";
  refused([&] { session.score_json(request, options); }, REXIT_DEADLINE, "the deadline passed while the request waited");
  options.deadline_us = 1000;
  refused([&] { session.score_json(R"({"user": 106, "items": [8]})", options); }, REXIT_DEADLINE, "while the request waited");
  options.deadline_us = 60'000'000;
  EXPECT_EQ(session.score_json(R"({"user": 106, "items": [8]})", options).stats.cut_short, 0u);
  refused([&] { session.score_json(request, options); }, REXIT_DEADLINE, "while the request waited");  // its own counts
}

TEST(ScoreJson, ItsMemoryIsCountedAndThatOfALongRequestReleased) {
  Session session{Bundle(sound_bundle())};
  const std::string request = R"({"user": 106, "items": [8]})";
  session.score_json(request);
  const std::size_t before = session.memory().buffers;
  constexpr std::size_t half = std::size_t{1} << 19;
  session.score_json(request + std::string(half, ' '));
  EXPECT_GE(session.memory().buffers, half);
  session.score_json(request + std::string(4 * half, ' '));
  EXPECT_LE(session.memory().buffers, before);
  session.score_json(request + std::string(half, ' '));
  session.trim();
  EXPECT_LT(session.memory().buffers, before);
}

TEST(ScoreJson, AFailureWritesNothingAndTheSessionGoesOn) {
  Session session{Bundle(sound_bundle())};
  const char* answer = nullptr;
  std::size_t bytes = 77;
  rexit_stats stats;
  std::memset(&stats, 0x5a, sizeof stats);
  stats.struct_size = sizeof stats;
  const std::string bad = R"({"user": 106, "items": [4]})";
  EXPECT_EQ(rexit_session_score_json(session.get(), bad.data(), bad.size(), nullptr, &answer, &bytes, &stats),
            REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(answer, nullptr);
  EXPECT_EQ(bytes, 77u);
  EXPECT_EQ(stats.candidates, 0x5a5a5a5a5a5a5a5au);
  EXPECT_EQ(rexit_session_score_json(session.get(), nullptr, 5, nullptr, &answer, &bytes, nullptr), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "request is NULL");
  EXPECT_EQ(rexit_session_score_json(session.get(), nullptr, 0, nullptr, &answer, &bytes, nullptr), REXIT_INVALID_ARGUMENT);
  const std::string good = R"({"user": "nobody", "items": [8]})";
  refused([&] { session.score_json(good); }, REXIT_INVALID_ARGUMENT, "the catalog's ids are integers");
  EXPECT_EQ(rexit_session_score_json(session.get(), R"({"user": 5, "items": [8]})", 25, nullptr, &answer, &bytes, nullptr),
            REXIT_OK);
  EXPECT_EQ(std::strlen(answer), bytes);
  EXPECT_EQ(at(answer, "known"), "false");
}

TEST(Request, ANulWouldCutAText) {
  const std::string cut("a\0b", 3);
  EXPECT_THROW(Request(Id(cut)), std::invalid_argument);
  EXPECT_THROW(Request(1).items({Id("a"), Id(cut)}), std::invalid_argument);
  EXPECT_THROW(Request(1).recent({Id(cut)}), std::invalid_argument);
  EXPECT_THROW(Request(1).input(cut, 1.0), std::invalid_argument);
  try {
    Request(1).input("device", cut);
    ADD_FAILURE() << "not refused";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "inputs.device has a NUL, expected text without one");
  }
}

}  // namespace

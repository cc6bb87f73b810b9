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

// What they do: tests/runtime/test_request.py.
TEST(ScoreJson, OptionsAreChecked) {
  Session session{Bundle(sound_bundle())};
  const std::string request = R"({"user": 106, "items": [8], "force_exit": 2})";
  JsonOptions options;
  options.force_exit = 3;
  refused([&] { session.score_json(request, options); }, REXIT_INVALID_ARGUMENT, "force_exit is 3, the bundle has exits 0 to 2");
  options = {};
  options.texts = {{"query", {1}}};
  refused([&] { session.score_json(request, options); }, REXIT_INVALID_ARGUMENT,
          "options.texts[0]: the request has no text `query`");
  options = {};
  options.waited_us = -1;
  refused([&] { session.score_json(request, options); }, REXIT_INVALID_ARGUMENT, "options.waited_us is -1, expected 0 or more");
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

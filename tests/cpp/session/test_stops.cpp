// Rules of the whole slate: exits of random slates are the book's (tests/builders/bundles/stopped.py), and what deadlines and
// requests do to them.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "base/status.hpp"
#include "files/safetensors.hpp"
#include "refused.hpp"
#include "session/slate_fixture.hpp"

using namespace rexit::core;

namespace {

constexpr std::size_t exits = 3;
constexpr float never = std::numeric_limits<float>::infinity();

// Candidate i is the token i, and log-odds come from a table [candidates, exits].
class SlateRulesTest : public SlateFixture {
 protected:
  Policy policy;

  SlateRulesTest() { policy.exits.assign(exits, {1, 0, never, never}); }

  const std::vector<Answer>& answers(const std::vector<float>& log_odds, const StopRule& rule,
                                     const Deadline& deadline = Deadline({}, 0)) {
    backend.head = [&log_odds](std::size_t segment, float token) {
      return log_odds[static_cast<std::size_t>(token) * exits + segment];
    };
    Prompt prompt;
    prompt.tokens = {1, 2, 3};
    prompt.offsets = {0, 3};
    for (std::size_t i = 0; i < log_odds.size() / exits; ++i) {
      prompt.tokens.push_back(static_cast<std::int32_t>(i));
      prompt.offsets.push_back(prompt.tokens.size());
    }
    prefix.set_current(prompt.tokens.data(), 3);
    return run_slate(slate, prompt, prefix, rule, deadline, stats);
  }
};

TEST_F(SlateRulesTest, WhatNoMapCanCalibrateIsAnError) {
  policy.earlier = {1e9f, 1e9f, -1e9f};
  const std::vector<float> log_odds = {1e30f, -1e30f, 1e30f};
  for (const std::optional<std::size_t> force_exit : {std::optional<std::size_t>(), std::optional<std::size_t>(1)})
    refused<Error>([&] { answers(log_odds, {&policy, force_exit}); }, REXIT_BACKEND_FAILED,
                   "beyond what the policy's maps can calibrate");
  std::vector<float> trace(log_odds.size());
  answers(log_odds, {&policy, std::nullopt, trace.data()});
  EXPECT_EQ(trace, log_odds) << "a trace asks for no c";
}

// At the deadline, candidates that this exit has judged are cut short: for the whole slate, judging has not ended.
TEST_F(SlateRulesTest, TheyWaitForEveryChunk) {
  policy.top_k = {100, false, {0, 0}, {0, 0}};
  backend.after = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(600)); };
  const std::vector<Answer>& slate_answers =
      answers(std::vector<float>(30 * exits, 1), {&policy, std::nullopt}, Deadline(Clock::now(), 500'000));
  for (std::size_t i = 0; i < slate_answers.size(); ++i) {
    EXPECT_EQ(slate_answers[i].has_exit(), i < 24);
    EXPECT_TRUE(slate_answers[i].cut_short);
  }
}

// The deadline passes after the slate has been judged as a whole: those it stopped are not cut short.
TEST_F(SlateRulesTest, StoppedCandidatesAreNotCutShort) {
  policy.top_k = {1, false, {1, 1}, {1, 1}};
  backend.after = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(600)); };
  const std::vector<Answer>& slate_answers =
      answers({5, 0, 0, 4, 0, 0, -9, 0, 0}, {&policy, std::nullopt}, Deadline(Clock::now(), 500'000));
  EXPECT_TRUE(slate_answers[0].cut_short && slate_answers[1].cut_short);
  EXPECT_FALSE(slate_answers[2].cut_short);
}

// The same document twice has one fate, wherever it stands in the request.
TEST_F(SlateRulesTest, CandidatesThatTieAtTheCutShareOneFate) {
  policy.keep = {2, 0, 0};
  const std::vector<Answer>& slate_answers = answers({3, 0, 0, 5, 0, 0, 3, 0, 0, 1, 0, 0, 3, 0, 0}, {&policy, std::nullopt});
  std::vector<std::size_t> reached;
  for (const Answer& answer : slate_answers) reached.push_back(answer.exit);
  EXPECT_EQ(reached, (std::vector<std::size_t>{2, 2, 2, 0, 2}));
}

// Row `row` of a table with `width` columns.
template <class T>
std::vector<T> row_of(const Array<T>& table, std::size_t row, std::size_t width) {
  return {table.data + row * width, table.data + (row + 1) * width};
}

TEST_F(SlateRulesTest, StopsWhereTheBookDoes) {
  const Safetensors file(File(std::getenv("REXIT_TEST_STOPPED")));
  const auto column = [&](const char* name) { return file.array<std::int32_t>(name, {std::nullopt}); };
  const auto table = [&](const char* name, std::size_t width) { return file.array<float>(name, {std::nullopt, width}); };
  const Array<std::int32_t> patience = column("patience"), quorum = column("quorum"), k = column("k"),
                            ordered = column("ordered"), candidates = column("candidates"), exit = column("exit"),
                            keep = file.array<std::int32_t>("keep", {std::nullopt, exits});
  const Array<float> rise = table("rise", exits - 1), fall = table("fall", exits - 1), earlier = table("earlier", 3),
                     log_odds = table("log_odds", exits), rules = file.array<float>("rules", {std::nullopt, exits, 4}),
                     c = file.array<float>("c", {std::nullopt});
  ASSERT_GT(patience.size, 100u);
  std::size_t candidate = 0;
  for (std::size_t n = 0; n < patience.size; ++n) {
    policy.patience = static_cast<std::size_t>(patience[n]);
    policy.quorum = static_cast<std::size_t>(quorum[n]);
    policy.top_k = {static_cast<std::size_t>(k[n]), ordered[n] != 0, row_of(rise, n, exits - 1), row_of(fall, n, exits - 1)};
    policy.keep.assign(keep.data + n * exits, keep.data + (n + 1) * exits);
    for (std::size_t e = 0; e < exits; ++e) {
      const std::vector<float> rule = row_of(rules, n * exits + e, 4);
      policy.exits[e] = {rule[0], rule[1], rule[2], rule[3]};
    }
    policy.earlier = row_of(earlier, n, 3);
    if (policy.earlier == std::vector<float>(3)) policy.earlier.clear();
    const auto count = static_cast<std::size_t>(candidates[n]);
    const std::vector<float> slate_log_odds(log_odds.data + candidate * exits, log_odds.data + (candidate + count) * exits);
    for (const Answer& answer : answers(slate_log_odds, {&policy, std::nullopt})) {
      ASSERT_EQ(answer.exit, static_cast<std::uint32_t>(exit[candidate])) << "case " << n;
      ASSERT_EQ(answer.calibrated, c[candidate]) << "case " << n;
      ++candidate;
    }
  }
  EXPECT_EQ(candidate, exit.size);
}

}  // namespace

// Rules of the whole slate: by hand, and the exits of random slates as Python has them (tests/builders/stopped.py).
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "session/run_slate.hpp"
#include "session/slate/slate.hpp"

using namespace rexit::core;

namespace {

constexpr std::size_t exits = 3;
constexpr float never = std::numeric_limits<float>::infinity();

// Candidate i is the token i; hidden states carry it, and log-odds come from a table [candidates, exits].
class Table final : public Backend {
 public:
  explicit Table(const Bundle& bundle) : width_(bundle.model().hidden_size) {}
  void run(std::size_t segment, const Pass& pass) const override {
    for (std::size_t t = 0; t < pass.tokens; ++t) {
      const float token =
          segment == 0 ? static_cast<float>(pass.token_ids[t]) : static_cast<const float*>(pass.hidden_in)[t * width_];
      if (pass.hidden_out != nullptr) static_cast<float*>(pass.hidden_out)[t * width_] = token;
      if (pass.logits == nullptr) continue;
      for (std::size_t n = 0; n < pass.rows; ++n)
        if (pass.row_index[n] == static_cast<std::int64_t>(t)) {
          pass.logits[2 * n] = 0;
          pass.logits[2 * n + 1] = log_odds[static_cast<std::size_t>(token) * exits + segment];
        }
    }
    if (pass.logits != nullptr && after) after(segment);
  }
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes); }
  void release(void* memory) const noexcept override { ::operator delete(memory); }
  void copy(void* to, const void* from, std::size_t bytes) const override { std::memmove(to, from, bytes); }

  std::vector<float> log_odds;
  std::function<void(std::size_t)> after;

 private:
  std::size_t width_;
};

class SlateRulesTest : public testing::Test {
 protected:
  Bundle bundle{open_source(sound_bundle()), nullptr};  // passes take 24 tokens
  Table backend{bundle};
  VectorRows vectors{bundle};
  PrefixCache prefix{bundle, backend, vectors, 1u << 20};
  Slate slate{bundle, backend, vectors};
  SlateStats stats;
  Policy policy;

  SlateRulesTest() { policy.exits.assign(exits, {1, 0, never, never}); }

  const std::vector<Answer>& answers(std::vector<float> log_odds, const StopRule& rule, const Deadline& deadline) {
    backend.log_odds = std::move(log_odds);
    Prompt prompt;
    prompt.tokens = {1, 2, 3};
    prompt.offsets = {0, 3};
    for (std::size_t i = 0; i < backend.log_odds.size() / exits; ++i) {
      prompt.tokens.push_back(static_cast<std::int32_t>(i));
      prompt.offsets.push_back(prompt.tokens.size());
    }
    prefix.set_current(prompt.tokens.data(), 3);
    return run_slate(slate, prompt, prefix, rule, deadline, stats);
  }
  std::vector<std::uint32_t> run(std::vector<float> log_odds, const StopRule& rule) {
    std::vector<std::uint32_t> exits;
    for (const Answer& answer : answers(std::move(log_odds), rule, Deadline({}, 0))) exits.push_back(answer.exit);
    return exits;
  }
  std::vector<std::uint32_t> run(std::vector<float> log_odds, std::size_t top_k = 0) {
    return run(std::move(log_odds), {&policy, std::nullopt, top_k});
  }
};

using Exits = std::vector<std::uint32_t>;

TEST_F(SlateRulesTest, TheBestAreSettled) {
  policy.top_k = {1, false, {1, 1}, {1, 1}};
  EXPECT_EQ(run({5, 0, 0, 2, 0, 0, 1, 0, 0}), (Exits{0, 0, 0}));
  EXPECT_EQ(run({3, 5, 0, 1, 0, 0, -4, 0, 0}), (Exits{1, 1, 0}));  // 3 - 1 = 1 + 1: the second may be above the first
}

TEST_F(SlateRulesTest, TheRequestsKReplacesThePolicys) {
  policy.top_k = {2, false, {1, 1}, {1, 1}};
  const std::vector<float> log_odds = {5, 5, 0, 4, 4, 0, 0, 0, 0};
  EXPECT_EQ(run(log_odds), (Exits{0, 0, 0}));
  EXPECT_EQ(run(log_odds, 1), (Exits{2, 2, 0}));
  policy.top_k.k = 0;
  EXPECT_EQ(run(log_odds, 1), (Exits{2, 2, 2}));  // without the rule, top_k only limits the answers and stops nothing
}

TEST_F(SlateRulesTest, AStoppedCandidateKeepsItsInterval) {
  policy.exits[0].upper = 5;
  policy.top_k = {1, false, {9, 0.5f}, {9, 0.5f}};
  // The first stops by itself at 5, where c may still move by 9; at exit 1 the second's interval is [-3.5, -2.5].
  EXPECT_EQ(run({5, 0, 0, 0, -3, 0}), (Exits{0, 2}));
  EXPECT_EQ(run({5, 0, 0, 0, -5, 0}), (Exits{0, 1}));
}

TEST_F(SlateRulesTest, AQuorumStopsTheRest) {
  policy.exits[0].upper = policy.exits[1].upper = 5;
  policy.quorum = 1;
  EXPECT_EQ(run({9, 0, 0, 9, 0, 0, 9, 0, 0, 1, 0, 0}), (Exits{0, 0, 0, 0}));
  EXPECT_EQ(run({9, 0, 0, 9, 0, 0, 1, 9, 0, 1, 0, 0}), (Exits{0, 0, 1, 1}));
  EXPECT_EQ(stats.candidate_layers, 4u + (4u + 2u));
}

// Of equals, the first of the request go on; who has stopped takes no place.
TEST_F(SlateRulesTest, OnlySoManyGoOn) {
  policy.keep = {2, 1, 0};
  EXPECT_EQ(run({1, 0, 0, 2, 5, 0, 1, 6, 0, 1, 0, 0}), (Exits{1, 2, 0, 0}));
  policy.exits[0].upper = 2;
  EXPECT_EQ(run({1, 0, 0, 2, 5, 0, 1, 6, 0, 1, 0, 0}), (Exits{1, 0, 2, 0}));
  EXPECT_EQ(run({0, 0, 0}), (Exits{2}));  // fewer than may go on
}

TEST_F(SlateRulesTest, WhatNoMapCanCalibrateIsAnError) {
  policy.earlier = {1e9f, 1e9f, -1e9f};
  const std::vector<float> log_odds = {1e30f, -1e30f, 1e30f};
  for (const std::optional<std::size_t> force_exit : {std::optional<std::size_t>(), std::optional<std::size_t>(1)}) try {
      run(log_odds, {&policy, force_exit});
      ADD_FAILURE() << "c is no number";
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), REXIT_BACKEND_FAILED);
      EXPECT_NE(std::string(error.what()).find("beyond what the policy's maps can calibrate"), std::string::npos);
    }
  std::vector<float> trace(log_odds.size());
  run(log_odds, {&policy, std::nullopt, 0, trace.data()});
  EXPECT_EQ(trace, log_odds) << "a trace asks for no c";
}

TEST_F(SlateRulesTest, TracesAndForcedExitsIgnoreThem) {
  policy.quorum = 9;
  policy.top_k = {9, false, {0, 0}, {0, 0}};
  const std::vector<float> log_odds = {1, 2, 3, 4, 5, 6};
  EXPECT_EQ(run(log_odds), (Exits{0, 0}));
  EXPECT_EQ(run(log_odds, {&policy, 1}), (Exits{1, 1}));
  std::vector<float> trace(log_odds.size());
  EXPECT_EQ(run(log_odds, {&policy, std::nullopt, 0, trace.data()}), (Exits{2, 2}));
  EXPECT_EQ(trace, log_odds);
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

class Numbers {
 public:
  explicit Numbers(const char* path) : file_(path, std::ios::binary) {}
  std::uint32_t integer() { return read<std::uint32_t>(); }
  float real() { return read<float>(); }
  std::vector<float> reals(std::size_t count) {
    std::vector<float> all;
    for (std::size_t i = 0; i < count; ++i) all.push_back(real());
    return all;
  }
  bool good() const { return file_.good(); }

 private:
  template <class T>
  T read() {
    T value{};
    file_.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  }
  std::ifstream file_;
};

TEST_F(SlateRulesTest, StopsAsPythonDoes) {
  Numbers cases_file(std::getenv("REXIT_TEST_STOPPED"));
  const std::uint32_t cases = cases_file.integer();
  ASSERT_GT(cases, 100u);
  for (std::uint32_t n = 0; n < cases; ++n) {
    policy.patience = cases_file.integer();
    policy.quorum = cases_file.integer();
    policy.top_k.k = cases_file.integer();
    policy.top_k.ordered = cases_file.integer() != 0;
    const std::size_t own_k = cases_file.integer(), candidates = cases_file.integer();
    policy.top_k.rise = cases_file.reals(exits - 1);
    policy.top_k.fall = cases_file.reals(exits - 1);
    policy.keep.clear();
    for (std::size_t k = 0; k < exits; ++k) policy.keep.push_back(cases_file.integer());
    for (ExitRule& exit : policy.exits) {
      exit.a = cases_file.real();
      exit.b = cases_file.real();
      exit.upper = cases_file.real();
      exit.lower = cases_file.real();
    }
    const bool reads_earlier_heads = cases_file.integer() != 0;
    policy.earlier = cases_file.reals(exits * (exits - 1) / 2);
    if (!reads_earlier_heads) policy.earlier.clear();
    const std::vector<float> log_odds = cases_file.reals(candidates * exits);
    Exits expected, stopped;
    for (std::size_t i = 0; i < candidates; ++i) expected.push_back(cases_file.integer());
    const std::vector<float> expected_c = cases_file.reals(candidates);
    ASSERT_TRUE(cases_file.good());
    std::vector<float> c;
    for (const Answer& answer : answers(log_odds, {&policy, std::nullopt, own_k}, Deadline({}, 0))) {
      stopped.push_back(answer.exit);
      c.push_back(answer.calibrated);
    }
    ASSERT_EQ(stopped, expected) << "case " << n;
    ASSERT_EQ(c, expected_c) << "case " << n;
  }
}

}  // namespace

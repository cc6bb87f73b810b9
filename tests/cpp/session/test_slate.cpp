// Packing, compaction and deadlines, over a backend that records its passes instead of computing.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <thread>
#include <vector>

#include "base/status.hpp"
#include "refused.hpp"
#include "session/slate_fixture.hpp"

using namespace rexit::core;

namespace {

class SlateTest : public SlateFixture {
 protected:
  // Candidates of two tokens: 50, and the log-odds to have at every exit.
  Prompt prompt(const std::vector<std::int32_t>& log_odds, std::size_t prefix_tokens = 3) {
    Prompt slate_prompt;
    for (std::size_t t = 0; t < prefix_tokens; ++t) slate_prompt.tokens.push_back(static_cast<std::int32_t>(t + 1));
    slate_prompt.offsets = {0, prefix_tokens};
    for (const std::int32_t z : log_odds) {
      slate_prompt.tokens.push_back(50);
      slate_prompt.tokens.push_back(z);
      slate_prompt.offsets.push_back(slate_prompt.tokens.size());
    }
    prefix.set_current(slate_prompt.tokens.data(), prefix_tokens);
    return slate_prompt;
  }

  static Policy thresholds(std::vector<float> upper) {
    Policy policy;
    for (const float u : upper) policy.exits.push_back({1, 0, u, u});
    return policy;
  }
};

constexpr float never = std::numeric_limits<float>::infinity();

TEST_F(SlateTest, OnlyTheUndecidedGoOn) {
  const Policy policy = thresholds({9, 5, never});
  const Prompt slate_prompt = prompt({9, 4, 10, 6, 1});
  const std::vector<Answer>& answers = run_slate(slate, slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
  std::vector<std::uint32_t> exits;
  for (const Answer& answer : answers) exits.push_back(answer.exit);
  EXPECT_EQ(exits, (std::vector<std::uint32_t>{0, 2, 0, 1, 2}));
  ASSERT_EQ(backend.passes.size(), 3u);
  EXPECT_EQ(backend.passes[1].tokens, (std::vector<float>{50, 4, 50, 6, 50, 1}));
  EXPECT_EQ(backend.passes[1].groups, (std::vector<std::int64_t>{1, 1, 3, 3, 4, 4}));
  EXPECT_EQ(backend.passes[2].tokens, (std::vector<float>{50, 4, 50, 1}));
  for (const auto& pass : backend.passes)
    for (std::size_t t = 0; t < pass.tokens.size(); ++t) EXPECT_EQ(pass.positions[t], 3 + static_cast<std::int64_t>(t % 2));
  EXPECT_EQ(stats.candidate_layers, 5u * 1 + 3 * 1 + 2 * 2);
}

// In the same pass and in another one: the first exit that is sure of 6.05 would be so of some of them alone.
TEST_F(SlateTest, EqualCandidatesGetEqualAnswers) {
  backend.noise = 0.01f;
  const Policy policy = thresholds({6.05f, 9, never});
  std::vector<std::int32_t> log_odds;
  for (int i = 0; i < 15; ++i) log_odds.insert(log_odds.end(), {6, 4});
  std::vector<float> trace(log_odds.size() * bundle.exits());
  for (float* rows : {static_cast<float*>(nullptr), trace.data()}) {
    const auto& answers = run_slate(slate, prompt(log_odds), prefix, {&policy, std::nullopt, rows}, Deadline({}, 0), stats);
    for (std::size_t i = 2; i < answers.size(); ++i) {
      EXPECT_EQ(answers[i].exit, 2u) << i;
      EXPECT_EQ(answers[i].log_odds, answers[i % 2].log_odds) << i;
      EXPECT_EQ(answers[i].calibrated, answers[i % 2].calibrated) << i;
    }
  }
  for (std::size_t n = 2 * bundle.exits(); n < trace.size(); ++n) EXPECT_EQ(trace[n], trace[n % (2 * bundle.exits())]) << n;
}

TEST_F(SlateTest, NeighboursMoveTogether) {
  const Policy policy = thresholds({9, never, never});
  run_slate(slate, prompt({1, 9, 2, 3, 4, 9, 5, 6}), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
  EXPECT_EQ(backend.passes[1].tokens, (std::vector<float>{50, 1, 50, 2, 50, 3, 50, 4, 50, 5, 50, 6}));
  const std::size_t two_tokens = 2 * bundle.model().hidden_size * sizeof(float);
  EXPECT_EQ(backend.copied, (std::vector<std::size_t>{3 * two_tokens, 2 * two_tokens}));
}

TEST_F(SlateTest, ChunksFillUpToTheLimit) {
  const Policy policy = thresholds({never, never, never});
  run_slate(slate, prompt(std::vector<std::int32_t>(26, 1)), prefix, {&policy, 0}, Deadline({}, 0), stats);
  std::vector<std::size_t> sizes;
  for (const auto& pass : backend.passes) sizes.push_back(pass.tokens.size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{24, 24, 4}));  // max_tokens is 24
}

// Eight passes and two threads: two at a time, each waiting for the other.
TEST_F(SlateTest, ManyPassesWithoutAPrefixRunSideBySide) {
  const Policy policy = thresholds({9, 5, never});
  std::vector<std::int32_t> log_odds;
  for (std::int32_t i = 0; i < 96; ++i) log_odds.push_back(i % 5);
  const Prompt slate_prompt = prompt(log_odds, 0);
  const std::vector<Answer> one_by_one = run_slate(slate, slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
  backend.passes.clear();
  backend.threads = 2;
  std::atomic<std::size_t> together{0};
  backend.before = [&](const Pass& pass) {
    EXPECT_EQ(pass.side_by_side, 2u);
    const std::size_t needed = together++ / 2 * 2 + 2;
    for (int waits = 0; together < needed && waits < 5000; ++waits) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_GE(together, needed);
  };
  SlateStats concurrent;
  const auto& answers = run_slate(slate, slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), concurrent);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].exit, one_by_one[i].exit) << i;
    EXPECT_EQ(answers[i].log_odds, one_by_one[i].log_odds) << i;
  }
  EXPECT_EQ(concurrent.candidate_layers, stats.candidate_layers);
  ASSERT_EQ(backend.passes.size(), 24u);
  EXPECT_NE(backend.passes[0].thread, backend.passes[1].thread);
}

TEST_F(SlateTest, FewPassesAndThoseBehindAPrefixRunOneByOne) {
  const Policy policy = thresholds({never, never, never});
  backend.threads = 2;
  run_slate(slate, prompt(std::vector<std::int32_t>(84, 1), 0), prefix, {&policy, 0}, Deadline({}, 0), stats);  // seven
  run_slate(slate, prompt(std::vector<std::int32_t>(96, 1)), prefix, {&policy, 0}, Deadline({}, 0), stats);
  EXPECT_EQ(backend.passes.size(), 7u + 8);
  for (const auto& pass : backend.passes) {
    EXPECT_EQ(pass.side_by_side, 1u);
    EXPECT_EQ(pass.thread, std::this_thread::get_id());
  }
}

TEST_F(SlateTest, PassesSideBySideEndWithTheDeadlineAndWithAnError) {
  const Policy policy = thresholds({never, never, never});
  const Prompt slate_prompt = prompt(std::vector<std::int32_t>(96, 1), 0);
  backend.threads = 2;
  backend.before = [](const Pass&) { std::this_thread::sleep_for(std::chrono::milliseconds(200)); };
  const auto& answers = run_slate(slate, slate_prompt, prefix, {&policy, 0}, Deadline(Clock::now(), 100'000), stats);
  for (std::size_t i = 0; i < 96; ++i) EXPECT_EQ(answers[i].cut_short, i >= 24) << i;
  EXPECT_EQ(stats.candidate_layers, 24u);

  std::atomic<int> runs{0};
  backend.before = [&](const Pass&) {
    if (++runs == 2) fail(REXIT_BACKEND_FAILED, "the second pass");
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // long enough for the error to be seen
  };
  refused<Error>([&] { run_slate(slate, slate_prompt, prefix, {&policy, 0}, Deadline({}, 0), stats); }, REXIT_BACKEND_FAILED,
                 "the second pass");
  EXPECT_LE(runs, 3);
}

// A slate of several passes takes memory for its hidden states once, and for the output of a pass.
TEST_F(SlateTest, ALargeSlateRunsInParts) {
  const Policy policy = thresholds({9, 5, never});
  const std::size_t row = bundle.model().hidden_size * sizeof(float);
  std::vector<std::int32_t> log_odds;
  for (std::int32_t i = 0; i < 40; ++i) log_odds.push_back(i % 11);
  const Prompt slate_prompt = prompt(log_odds);
  while (!prefix.ready(2)) prefix.deepen();
  std::size_t before = 0;
  const auto run = [&](std::size_t most_rows) {
    before = backend.peak = backend.allocated;
    backend.passes.clear();
    Slate bounded(bundle, backend, most_rows * row);
    std::vector<std::uint32_t> exits;
    for (const Answer& answer : run_slate(bounded, slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats)) {
      EXPECT_EQ(answer.log_odds, static_cast<float>(log_odds[exits.size()]));
      exits.push_back(answer.exit);
    }
    return exits;
  };
  const std::vector<std::uint32_t> whole = run(80);
  EXPECT_LE(backend.peak - before, (80 + 24) * row);
  EXPECT_EQ(backend.passes[1].segment, 0u);
  EXPECT_EQ(run(30), whole);
  EXPECT_LE(backend.peak - before, (30 + 24) * row);
  EXPECT_EQ(run(1), whole);  // a pass at a time
  EXPECT_LE(backend.peak - before, (24 + 24) * row);
  EXPECT_EQ(backend.passes[1].segment, 1u);
}

TEST_F(SlateTest, RulesOfTheWholeSlateNeedAllOfIt) {
  Policy policy = thresholds({never, never, never});
  policy.quorum = 1;
  const std::size_t row = bundle.model().hidden_size * sizeof(float);
  Slate bounded(bundle, backend, 30 * row);
  const Prompt slate_prompt = prompt(std::vector<std::int32_t>(16, 1));
  refused<Error>([&] { run_slate(bounded, slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats); },
                 REXIT_TOO_LONG, "only 15 of its 16 candidates");
  EXPECT_TRUE(backend.passes.empty());
  EXPECT_EQ(run_slate(bounded, slate_prompt, prefix, {&policy, 1}, Deadline({}, 0), stats)[15].exit, 1u);
  EXPECT_EQ(
      run_slate(bounded, prompt(std::vector<std::int32_t>(15, 1)), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats)[0]
          .exit,
      2u);
}

TEST_F(SlateTest, TheSlateLimitIs256MiBByDefault) {
  Policy policy = thresholds({never, never, never});
  policy.quorum = 1;
  const std::size_t count = (std::size_t{256} << 20) / (bundle.model().hidden_size * sizeof(float)) + 1;
  Prompt slate_prompt = prompt({});
  slate_prompt.tokens.resize(3 + count);
  while (slate_prompt.offsets.size() < count + 2) slate_prompt.offsets.push_back(slate_prompt.offsets.back() + 1);
  refused<Error>([&] { run_slate(slate, slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats); }, REXIT_TOO_LONG,
                 "into 268435456 bytes");
}

TEST_F(SlateTest, PartsBehindTheDeadlineAreCutShort) {
  const Policy policy = thresholds({never, never, never});
  Slate bounded(bundle, backend, 1);
  Deadline deadline({}, 0);
  backend.after = [&](std::size_t segment) {
    if (segment == 1) deadline = Deadline(Clock::now() - std::chrono::seconds(1), 1);
  };
  const Prompt slate_prompt = prompt(std::vector<std::int32_t>(20, 1));
  const std::vector<Answer>& answers = run_slate(bounded, slate_prompt, prefix, {&policy, std::nullopt}, deadline, stats);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].exit, i < 12 ? 1u : REXIT_NO_EXIT);
    EXPECT_TRUE(answers[i].cut_short);
  }
}

TEST_F(SlateTest, PrefixGoesNoDeeperThanTheLastCandidate) {
  const Policy policy = thresholds({5, never, never});
  run_slate(slate, prompt({9, 8}), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
  EXPECT_EQ(stats.prefix_layers, 1u);
  EXPECT_FALSE(prefix.ready(1));
}

TEST_F(SlateTest, AtTheDeadlineTheDeepestHeadAnswers) {
  const Policy policy = thresholds({9, never, never});
  backend.after = [](std::size_t segment) {
    if (segment == 1) std::this_thread::sleep_for(std::chrono::milliseconds(600));
  };
  const Prompt slate_prompt = prompt({9, 4});
  const std::vector<Answer>& answers =
      run_slate(slate, slate_prompt, prefix, {&policy, std::nullopt}, Deadline(Clock::now(), 500'000), stats);
  EXPECT_EQ(answers[0].exit, 0u);
  EXPECT_FALSE(answers[0].cut_short);
  EXPECT_EQ(answers[1].exit, 1u);
  EXPECT_TRUE(answers[1].cut_short);
  EXPECT_EQ(answers[1].log_odds, 4.0f);
}

}  // namespace

// Packing, compaction and deadlines, over a backend that records its passes instead of computing.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "session/slate.hpp"

using namespace rexit::core;

namespace {

// Hidden states carry the token they came from; the head says 1 for tokens below `yes_below` once segment `sure_at` is reached.
class BookKeeper final : public Backend {
 public:
  explicit BookKeeper(const Bundle& bundle) : bundle_(bundle) {}

  void run(std::size_t segment, const Pass& pass) const override {
    const std::size_t width = bundle_.model().hidden_size;
    std::vector<float> inputs;
    for (std::size_t t = 0; t < pass.tokens; ++t)
      inputs.push_back(segment == 0 ? static_cast<float>(pass.token_ids[t])
                                    : static_cast<const float*>(pass.hidden_in)[t * width]);
    if (pass.hidden_out != nullptr)
      for (std::size_t t = 0; t < pass.tokens; ++t)
        for (std::size_t h = 0; h < width; ++h) static_cast<float*>(pass.hidden_out)[t * width + h] = inputs[t];
    if (pass.logits == nullptr) return;  // a prefix
    for (std::size_t n = 0; n < pass.rows; ++n) {
      const float last = inputs[static_cast<std::size_t>(pass.row_index[n])];
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = last;
    }
    passes.push_back({segment,
                      inputs,
                      {pass.groups, pass.groups + pass.tokens},
                      {pass.positions, pass.positions + pass.tokens},
                      pass.prefix,
                      {}});
    for (std::size_t n = 0; n < pass.span_count; ++n)
      passes.back().spans.push_back({pass.spans[n].tokens_end, pass.spans[n].past_begin, pass.spans[n].past_end});
    if (after) after(segment);
  }
  void* allocate(std::size_t bytes) const override {
    void* memory = ::operator new(bytes);
    blocks[memory] = bytes;
    allocated += bytes;
    peak = std::max(peak, allocated);
    return memory;
  }
  void release(void* memory) const noexcept override {
    if (memory == nullptr) return;
    allocated -= blocks[memory];
    ::operator delete(memory);
  }
  void copy(void* to, const void* from, std::size_t bytes) const override {
    copied.push_back(bytes);
    std::memmove(to, from, bytes);
  }
  bool takes_spans() const noexcept override { return true; }

  mutable std::vector<std::size_t> copied;
  mutable std::map<void*, std::size_t> blocks;
  mutable std::size_t allocated = 0, peak = 0;  // bytes
  struct Seen {
    std::size_t segment;
    std::vector<float> tokens;
    std::vector<std::int64_t> groups, positions;
    std::size_t prefix;
    std::vector<std::array<std::size_t, 3>> spans;  // of PastSpan's fields
  };
  mutable std::vector<Seen> passes;
  std::function<void(std::size_t)> after;

 private:
  const Bundle& bundle_;
};

class SlateTest : public testing::Test {
 protected:
  Bundle bundle{open_source(sound_bundle()), nullptr};
  BookKeeper backend{bundle};
  VectorRows vectors{bundle};
  PrefixCache prefix{bundle, backend, vectors, 1u << 20};
  Slate slate{bundle, backend, vectors};
  SlateStats stats;

  // Candidates of two tokens: 50, and the log-odds to have at every exit.
  Prompt prompt(const std::vector<std::int32_t>& log_odds) {
    Prompt slate_prompt;
    slate_prompt.tokens = {1, 2, 3};
    slate_prompt.offsets = {0, 3};
    for (const std::int32_t z : log_odds) {
      slate_prompt.tokens.push_back(50);
      slate_prompt.tokens.push_back(z);
      slate_prompt.offsets.push_back(slate_prompt.tokens.size());
    }
    prefix.set_current(slate_prompt.tokens.data(), 3);
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
  const std::vector<Answer>& answers = slate.run(slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
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

TEST_F(SlateTest, NeighboursMoveTogether) {
  const Policy policy = thresholds({9, never, never});
  slate.run(prompt({1, 9, 2, 3, 4, 9, 5, 6}), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
  EXPECT_EQ(backend.passes[1].tokens, (std::vector<float>{50, 1, 50, 2, 50, 3, 50, 4, 50, 5, 50, 6}));
  const std::size_t two_tokens = 2 * bundle.model().hidden_size * sizeof(float);
  EXPECT_EQ(backend.copied, (std::vector<std::size_t>{3 * two_tokens, 2 * two_tokens}));
}

TEST_F(SlateTest, ChunksFillUpToTheLimit) {
  const Policy policy = thresholds({never, never, never});
  slate.run(prompt(std::vector<std::int32_t>(26, 1)), prefix, {&policy, 0}, Deadline({}, 0), stats);
  std::vector<std::size_t> sizes;
  for (const auto& pass : backend.passes) sizes.push_back(pass.tokens.size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{24, 24, 4}));  // max_tokens is 24
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
    Slate bounded(bundle, backend, vectors, most_rows * row);
    std::vector<std::uint32_t> exits;
    for (const Answer& answer : bounded.run(slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats)) {
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
  policy.quorum = 0.1f;
  const std::size_t row = bundle.model().hidden_size * sizeof(float);
  Slate bounded(bundle, backend, vectors, 30 * row);
  const Prompt slate_prompt = prompt(std::vector<std::int32_t>(16, 1));
  try {
    bounded.run(slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), REXIT_TOO_LONG);
    EXPECT_NE(std::string(error.what()).find("only 15 of its 16 candidates"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(backend.passes.empty());
  EXPECT_EQ(bounded.run(slate_prompt, prefix, {&policy, 1}, Deadline({}, 0), stats)[15].exit, 1u);
  EXPECT_EQ(
      bounded.run(prompt(std::vector<std::int32_t>(15, 1)), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats)[0].exit, 2u);
}

TEST_F(SlateTest, TheSlateLimitIs256MiBByDefault) {
  Policy policy = thresholds({never, never, never});
  policy.quorum = 0.1f;
  const std::size_t count = (std::size_t{256} << 20) / (bundle.model().hidden_size * sizeof(float)) + 1;
  Prompt slate_prompt = prompt({});
  slate_prompt.tokens.resize(3 + count);
  while (slate_prompt.offsets.size() < count + 2) slate_prompt.offsets.push_back(slate_prompt.offsets.back() + 1);
  try {
    slate.run(slate_prompt, prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("into 268435456 bytes"), std::string::npos) << error.what();
  }
}

TEST_F(SlateTest, PartsBehindTheDeadlineAreCutShort) {
  const Policy policy = thresholds({never, never, never});
  Slate bounded(bundle, backend, vectors, 1);
  Deadline deadline({}, 0);
  backend.after = [&](std::size_t segment) {
    if (segment == 1) deadline = Deadline(Clock::now() - std::chrono::seconds(1), 1);
  };
  const Prompt slate_prompt = prompt(std::vector<std::int32_t>(20, 1));
  const std::vector<Answer>& answers = bounded.run(slate_prompt, prefix, {&policy, std::nullopt}, deadline, stats);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].exit, i < 12 ? 1u : REXIT_NO_EXIT);
    EXPECT_TRUE(answers[i].cut_short);
  }
}

TEST_F(SlateTest, PrefixGoesNoDeeperThanTheLastCandidate) {
  const Policy policy = thresholds({5, never, never});
  slate.run(prompt({9, 8}), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats);
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
      slate.run(slate_prompt, prefix, {&policy, std::nullopt}, Deadline(Clock::now(), 500'000), stats);
  EXPECT_EQ(answers[0].exit, 0u);
  EXPECT_FALSE(answers[0].cut_short);
  EXPECT_EQ(answers[1].exit, 1u);
  EXPECT_TRUE(answers[1].cut_short);
  EXPECT_EQ(answers[1].log_odds, 4.0f);
}

TEST_F(SlateTest, ADeadlineDuringTheFirstSegmentKeepsItsAnswers) {
  const Policy policy = thresholds({9, never, never});
  backend.after = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(600)); };
  std::vector<std::int32_t> log_odds(20, 1);
  log_odds[3] = 10;
  const Prompt slate_prompt = prompt(log_odds);
  const std::vector<Answer>& answers =
      slate.run(slate_prompt, prefix, {&policy, std::nullopt}, Deadline(Clock::now(), 500'000), stats);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].has_exit(), i < 12);  // one chunk
    EXPECT_EQ(answers[i].cut_short, i != 3);
  }
  EXPECT_EQ(stats.candidate_layers, 12u);
}

TEST_F(SlateTest, PatienceWaitsForHeadsToAgree) {
  Policy policy = thresholds({0, 0, never});
  policy.patience = 2;
  EXPECT_EQ(slate.run(prompt({3}), prefix, {&policy, std::nullopt}, Deadline({}, 0), stats)[0].exit, 1u);
}

// Prompts of several requests. Prefixes differ in length, and all candidates are as in SlateTest::prompt().
class TogetherTest : public SlateTest {
 protected:
  void add(std::size_t prefix_tokens, const std::vector<std::int32_t>& log_odds, const Policy& policy,
           std::int64_t deadline = 0) {
    Prompt& one = prompts.emplace_back();
    for (std::size_t i = 0; i < prefix_tokens; ++i) one.tokens.push_back(static_cast<std::int32_t>(10 * prompts.size() + i % 9));
    one.offsets = {0, prefix_tokens};
    for (const std::int32_t z : log_odds) {
      one.tokens.insert(one.tokens.end(), {50, z});
      one.offsets.push_back(one.tokens.size());
    }
    SlateTask task;
    task.prompt = &one;
    task.rule = {&policy, std::nullopt};
    task.deadline = &deadlines.emplace_back(Clock::now(), deadline);
    task.stats = &slates.emplace_back();
    tasks.push_back(task);
  }
  static std::vector<std::uint32_t> exits(const SlateTask& task) {
    std::vector<std::uint32_t> exits;
    for (const Answer& answer : task.answers) exits.push_back(answer.exit);
    return exits;
  }
  using Spans = std::vector<std::array<std::size_t, 3>>;

  std::deque<Prompt> prompts;
  std::deque<Deadline> deadlines;
  std::deque<SlateStats> slates;
  std::vector<SlateTask> tasks;
};

TEST_F(TogetherTest, APassHasTheCandidatesOfAllEachBehindItsPrefix) {
  const Policy policy = thresholds({9, 5, never}), bold = thresholds({1, 1, never});
  add(3, {9, 4}, policy);
  add(5, {2, 7, 3}, bold);
  add(0, {6, 10}, policy);
  slate.run_together(tasks, prefix);
  EXPECT_EQ(exits(tasks[0]), (std::vector<std::uint32_t>{0, 2}));
  EXPECT_EQ(exits(tasks[1]), (std::vector<std::uint32_t>{0, 0, 0}));
  EXPECT_EQ(exits(tasks[2]), (std::vector<std::uint32_t>{1, 0}));
  ASSERT_EQ(backend.passes.size(), 3u);
  EXPECT_EQ(backend.passes[0].tokens, (std::vector<float>{50, 9, 50, 4, 50, 2, 50, 7, 50, 3, 50, 6, 50, 10}));
  EXPECT_EQ(backend.passes[0].groups, (std::vector<std::int64_t>{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6}));
  EXPECT_EQ(backend.passes[0].positions, (std::vector<std::int64_t>{3, 4, 3, 4, 5, 6, 5, 6, 5, 6, 0, 1, 0, 1}));
  EXPECT_EQ(backend.passes[0].prefix, 10u);  // each begins at an even row
  EXPECT_EQ(backend.passes[0].spans, (Spans{{4, 0, 3}, {10, 4, 9}, {14, 10, 10}}));
  EXPECT_EQ(backend.passes[1].tokens, (std::vector<float>{50, 4, 50, 6}));
  EXPECT_EQ(backend.passes[1].prefix, 4u) << "the prefix of a request that is done is left out";
  EXPECT_EQ(backend.passes[1].spans, (Spans{{2, 0, 3}, {4, 4, 4}}));
  EXPECT_EQ(backend.passes[2].tokens, (std::vector<float>{50, 4}));
  EXPECT_EQ(slates[0].candidate_layers, 2u * 1 + 1 * 1 + 1 * 2);
  EXPECT_EQ(slates[0].prefix_layers, 4u);
  EXPECT_EQ(slates[1].candidate_layers, 3u);
  EXPECT_EQ(slates[1].prefix_layers, 1u);
  EXPECT_EQ(slates[2].prefix_layers, 0u);
}

TEST_F(TogetherTest, RulesOfTheWholeSlateAreThoseOfTheOwnSlate) {
  Policy policy = thresholds({9, never, never});
  policy.quorum = 0.4f;
  add(2, {9, 9, 3}, policy);  // one of three is left
  add(2, {9, 3, 3}, policy);  // two of three
  slate.run_together(tasks, prefix);
  EXPECT_EQ(exits(tasks[0]), (std::vector<std::uint32_t>{0, 0, 0}));
  EXPECT_EQ(exits(tasks[1]), (std::vector<std::uint32_t>{0, 2, 2}));
}

TEST_F(TogetherTest, ADeadlineEndsItsOwnRequestAlone) {
  const Policy policy = thresholds({9, never, never});
  constexpr std::int64_t ten_ms = 10'000;
  add(2, {9, 3}, policy, ten_ms);
  add(2, {3}, policy);
  add(2, {4}, policy, 1);  // has passed already
  backend.after = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  const auto start = Clock::now();
  while (Clock::now() - start < std::chrono::microseconds(2)) {
  }
  slate.run_together(tasks, prefix);
  ASSERT_FALSE(tasks[2].has_answer());
  EXPECT_EQ(exits(tasks[1]), (std::vector<std::uint32_t>{2}));
  EXPECT_FALSE(tasks[1].answers[0].cut_short);
  for (const auto& pass : backend.passes)
    EXPECT_EQ(std::count(pass.tokens.begin(), pass.tokens.end(), 4.0f), 0) << "a segment started after the deadline";
  if (!tasks[0].has_answer()) GTEST_SKIP() << "this machine needs more than 10 ms for two tiny prefixes";
  EXPECT_EQ(exits(tasks[0]), (std::vector<std::uint32_t>{0, 0}));
  EXPECT_FALSE(tasks[0].answers[0].cut_short);
  EXPECT_TRUE(tasks[0].answers[1].cut_short);
}

}  // namespace

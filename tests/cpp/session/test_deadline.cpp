// What a call that is cut short returns and counts, over a slow backend.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "refused.hpp"
#include "session/host_backend.hpp"

using namespace rexit::core;

namespace {

using std::chrono::milliseconds;

class DeadlineTest : public testing::Test {
 protected:
  DeadlineTest() {
    request.query.user = 2;
    for (Row item = 0; item < 20; ++item) request.query.items.push_back(item);
    ScriptedBackend::prefix_time = ScriptedBackend::slate_time = milliseconds(0);
  }

  std::shared_ptr<const LoadedBundle> loaded = load_over<ScriptedBackend>(sound_bundle());
  Session session{loaded, 0};
  Request request;
  rexit_stats stats{};

  const std::vector<Score>& score() { return session.score(request, Clock::now(), stats); }
  rexit_status status() {
    try {
      score();
      return REXIT_OK;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("deadline passed"), std::string::npos) << error.what();
      return error.status();
    }
  }
};

TEST_F(DeadlineTest, CandidatesWithoutAnAnswerAreMarked) {
  score();
  ASSERT_GT(session.segments()[0].candidates, 3u);
  ScriptedBackend::slate_time = milliseconds(150);
  request.deadline_us = 200'000;  // two chunks of the first segment
  const std::vector<Score>& scores = score();
  ASSERT_EQ(scores.size(), 20u);
  std::size_t answer_count = 0;
  while (answer_count < scores.size() && scores[answer_count].answer.has_exit()) ++answer_count;
  ASSERT_GT(answer_count, 0u);
  ASSERT_LT(answer_count, scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    EXPECT_EQ(scores[i].item, i);
    EXPECT_TRUE(scores[i].answer.cut_short);
    EXPECT_EQ(scores[i].answer.exit, i < answer_count ? 0 : REXIT_NO_EXIT);
    if (i < answer_count) {
      EXPECT_EQ(scores[i].answer.log_odds, static_cast<float>(i + 1));
    } else {
      EXPECT_TRUE(std::isnan(scores[i].answer.log_odds) && std::isnan(probability(scores[i].answer.calibrated, 0)));
    }
  }
  EXPECT_EQ(session.segments()[0].candidates, answer_count);

  request.top_k = 19;  // the best first, those without an answer last
  const std::vector<Score>& best = score();
  ASSERT_EQ(best.size(), 19u);
  answer_count = session.segments()[0].candidates;
  ASSERT_LT(answer_count, 19u);
  for (std::size_t i = 0; i < best.size(); ++i) EXPECT_EQ(best[i].item, i < answer_count ? answer_count - 1 - i : i);
}

// The pinned start is computed at open. In a request it could exceed the deadline, and delay others past theirs.
TEST_F(DeadlineTest, NoRequestComputesThePinnedStart) {
  const auto with = load_over<ScriptedBackend>(bundles() + "/sound_with_start/bundle");
  Session first(with, 0);
  ScriptedBackend::prefix_time = milliseconds(50);
  ScriptedBackend::passes = 0;
  request.deadline_us = 20'000;
  EXPECT_THROW(first.score(request, Clock::now(), stats), Error);
  EXPECT_LE(ScriptedBackend::passes, 1u) << "a segment started after the deadline";
  ScriptedBackend::passes = 0;
  EXPECT_EQ(LoadedBundle(*with).start, with->start);
  EXPECT_EQ(ScriptedBackend::passes, 0u) << "a reload computes what it has";
}

TEST_F(DeadlineTest, NoAnswerAtAllIsAnError) {
  ScriptedBackend::prefix_time = milliseconds(60);
  request.deadline_us = 50'000;
  EXPECT_EQ(status(), REXIT_DEADLINE);
  EXPECT_EQ(session.segments()[0].candidates, 0u);
  EXPECT_GT(session.segments()[0].prefix_us, 50'000);
}

// The time of the pass that overran the deadline counts.
TEST_F(DeadlineTest, TimesOfACallCutShortAreCounted) {
  request.query.items.resize(1);
  score();  // the prefix is now cached at full depth
  ScriptedBackend::slate_time = milliseconds(120);
  request.deadline_us = 200'000;
  score();
  EXPECT_GT(stats.slate_us, 200'000);
  EXPECT_LE(stats.slate_us, stats.total_us);
  EXPECT_GT(session.segments()[1].slate_us, 100'000);
  EXPECT_EQ(session.segments()[2].slate_us, 0);

  session.clear_cache();
  ScriptedBackend::slate_time = milliseconds(0);
  ScriptedBackend::prefix_time = milliseconds(120);
  stats = {};
  score();
  EXPECT_GT(stats.prefix_us, 200'000);
  EXPECT_LE(stats.prefix_us, stats.total_us);
  EXPECT_GT(session.segments()[1].prefix_us, 100'000);
  EXPECT_EQ(session.segments()[1].prefix_tokens, stats.prefix_tokens);
  EXPECT_EQ(session.segments()[2].prefix_us, 0);
}

// What a thread that reports metrics reads does not wait for the call.
TEST_F(DeadlineTest, ItIsReadDuringACall) {
  score();
  const std::size_t buffers = session.memory().buffers;
  std::vector<std::uint64_t> candidates;
  ScriptedBackend::during = [&] {
    candidates.push_back(session.segments()[0].candidates);
    EXPECT_EQ(session.memory().buffers, buffers);
  };
  score();
  ScriptedBackend::during = nullptr;
  EXPECT_EQ(candidates.front(), 0u);
  EXPECT_EQ(candidates.back(), 20u);
}

// Exit zero has answered when the deadline passes: it answers for all, and nothing is assembled.
TEST_F(DeadlineTest, ExitZeroAnswersWhatIsNotAssembled) {
  struct SlowZero final : ZeroGraph {
    void run(const float*, std::size_t rows, float* log_odds) const override {
      std::this_thread::sleep_for(milliseconds(600));
      for (std::size_t row = 0; row < rows; ++row) log_odds[row] = static_cast<float>(row);
    }
  };
  const auto with_zero = load_over<ScriptedBackend>(bundles() + "/sound_with_zero/bundle",
                                                    [](const Bundle&) { return std::make_shared<const SlowZero>(); });
  Session of_zero(with_zero, 0);
  request.deadline_us = 500'000;
  const std::vector<Score>& scores = of_zero.score(request, Clock::now(), stats);
  for (const Score& score : scores) {
    EXPECT_EQ(score.answer.exit, 0u);
    EXPECT_EQ(score.answer.log_odds, static_cast<float>(score.item));
    EXPECT_TRUE(score.answer.cut_short);
  }
  EXPECT_EQ(stats.cut_short, 20u);
  EXPECT_EQ(stats.prefix_layers + stats.candidate_layers + stats.candidate_tokens, 0u);
}

// The deadline has passed when the call begins: nothing is assembled, nothing runs.
TEST_F(DeadlineTest, AssemblyChecksIt) {
  Retrieval retrieval(loaded->bundle.catalog());
  Prompt prompt;
  const Deadline over(Clock::now() - milliseconds(10), 1'000), none({}, 0);
  retrieval.begin(request.query, none);
  EXPECT_THROW(assemble(loaded->bundle, over, retrieval, prompt), Error);
  EXPECT_EQ(prompt.candidates(), 0u);
  assemble(loaded->bundle, none, retrieval, prompt);
  EXPECT_EQ(prompt.candidates(), 20u);

  request.query.recent.push_back({3, true});  // so that similar users are searched for
  retrieval.begin(request.query, over);
  EXPECT_THROW(retrieval.similar_users(), Error);
  retrieval.begin(request.query, none);
  EXPECT_FALSE(retrieval.similar_users().empty());
}

// Each candidate reads fewer rows than are counted between two checks.
TEST_F(DeadlineTest, ExitZerosNumbersCheckIt) {
  const Bundle bundle(bundles() + "/sound_with_zero/bundle", nullptr);
  Retrieval retrieval(bundle.catalog());
  std::vector<float> numbers;
  const Deadline over(Clock::now() - milliseconds(10), 1'000);
  retrieval.begin(request.query, over);
  EXPECT_THROW(retrieval.numbers({}, numbers), Error);
  EXPECT_TRUE(numbers.empty());
}

// Like TensorRT, it cannot stop a run.
TEST_F(DeadlineTest, ABackendThatCannotStopIsCancelledBetweenSegments) {
  request.query.items.resize(1);
  score();
  ScriptedBackend::slate_time = milliseconds(200);
  std::thread cancelling([&] {
    std::this_thread::sleep_for(milliseconds(50));
    session.cancel();
  });
  refused<Error>([&] { score(); }, REXIT_CANCELLED, "cancelled");
  cancelling.join();
  EXPECT_EQ(session.segments()[0].candidates, 1u);
  EXPECT_EQ(session.segments()[1].candidates, 0u);
}

// ONNX Runtime itself ends a run after a stop request, and later runs are not affected.
TEST(Stop, EndsARunOfOnnxRuntime) {
  const Bundle bundle(sound_bundle(), nullptr);
  const std::shared_ptr<const Backend> backend = make_backend_factory(bundle, {})();
  const std::unique_ptr<Stop> stop = backend->make_stop();
  ASSERT_NE(stop, nullptr);
  const std::int64_t zero = 0;
  float logits[2];
  std::vector<float> hidden(bundle.model().hidden_size);
  Pass pass;
  pass.tokens = pass.rows = 1;
  pass.token_ids = pass.positions = pass.groups = pass.row_index = &zero;
  pass.hidden_out = hidden.data();
  pass.logits = logits;
  pass.stop = stop.get();
  backend->run(0, pass);
  stop->request();
  EXPECT_THROW(backend->run(0, pass), Error);
  stop->reset();
  backend->run(0, pass);
}

}  // namespace

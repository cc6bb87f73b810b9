// What a call that is cut short returns and counts, over a slow backend.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "session/session.hpp"

using namespace rexit::core;

namespace {

using std::chrono::milliseconds;

// The n-th candidate that a segment sees gets log-odds n.
class Slow final : public Backend {
 public:
  explicit Slow(const Bundle& bundle) : bundle_(bundle) {}
  void run(std::size_t segment, const Pass& pass) const override {
    if (pass.hidden_out != nullptr) std::memset(pass.hidden_out, 0, pass.tokens * bundle_.model().hidden_size * sizeof(float));
    ++passes;
    std::this_thread::sleep_for(pass.logits == nullptr ? prefix_time : slate_time);
    if (during) during();
    if (pass.logits == nullptr) return;
    if (segment != last_segment) row_count = 0;
    last_segment = segment;
    for (std::size_t n = 0; n < pass.rows; ++n) {
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = ++row_count == fails_after ? NAN : static_cast<float>(row_count);
    }
  }
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes); }
  void release(void* memory) const noexcept override { ::operator delete(memory); }
  void copy(void* to, const void* from, std::size_t bytes) const override { std::memmove(to, from, bytes); }

  static milliseconds prefix_time, slate_time;
  static std::size_t fails_after;  // 0: never
  static std::function<void()> during;
  static std::size_t passes;

 private:
  const Bundle& bundle_;
  mutable std::size_t row_count = 0, last_segment = 0;
};
milliseconds Slow::prefix_time{0}, Slow::slate_time{0};
std::size_t Slow::fails_after = 0, Slow::passes = 0;
std::function<void()> Slow::during;

std::shared_ptr<const LoadedBundle> loaded_from(const std::string& path) {
  return std::make_shared<const LoadedBundle>(open_source(path), nullptr, [](const Bundle& bundle) {
    return BackendFactory([slow = std::make_shared<const Slow>(bundle)] { return slow; });
  });
}

class DeadlineTest : public testing::Test {
 protected:
  DeadlineTest() {
    request.query.user = 2;
    for (Row item = 0; item < 20; ++item) request.query.items.push_back(item);
    Slow::prefix_time = Slow::slate_time = milliseconds(0);
  }

  std::shared_ptr<const LoadedBundle> loaded = loaded_from(sound_bundle());
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
  Slow::slate_time = milliseconds(150);
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
}

// The pinned start is computed at open. In a request it could exceed the deadline, and delay others past theirs.
TEST_F(DeadlineTest, NoRequestComputesThePinnedStart) {
  const auto with = loaded_from(bundles() + "/sound_with_start/bundle");
  Session first(with, 0);
  Slow::prefix_time = milliseconds(50);
  Slow::passes = 0;
  request.deadline_us = 20'000;
  EXPECT_THROW(first.score(request, Clock::now(), stats), Error);
  EXPECT_LE(Slow::passes, 1u) << "a segment started after the deadline";
  Slow::passes = 0;
  EXPECT_EQ(LoadedBundle(*with).start, with->start);
  EXPECT_EQ(Slow::passes, 0u) << "a reload computes what it has";
}

TEST_F(DeadlineTest, TheBestComeFirstAndThoseWithoutAnAnswerLast) {
  score();
  Slow::slate_time = milliseconds(150);
  request.deadline_us = 200'000;
  request.top_k = 19;
  const std::vector<Score>& scores = score();
  ASSERT_EQ(scores.size(), 19u);
  const auto answer_count = static_cast<std::size_t>(session.segments()[0].candidates);
  ASSERT_GT(answer_count, 0u);
  ASSERT_LT(answer_count, 19u);
  for (std::size_t i = 0; i < scores.size(); ++i) EXPECT_EQ(scores[i].item, i < answer_count ? answer_count - 1 - i : i);
}

TEST_F(DeadlineTest, NoAnswerAtAllIsAnError) {
  Slow::prefix_time = milliseconds(60);
  request.deadline_us = 50'000;
  EXPECT_EQ(status(), REXIT_DEADLINE);
  EXPECT_EQ(session.segments()[0].candidates, 0u);
  EXPECT_GT(session.segments()[0].prefix_us, 50'000);
}

// The time of the pass that overran the deadline counts.
TEST_F(DeadlineTest, TimesOfACallCutShortAreCounted) {
  request.query.items.resize(1);
  score();  // the prefix is now cached at full depth
  Slow::slate_time = milliseconds(120);
  request.deadline_us = 200'000;
  score();
  EXPECT_GT(stats.slate_us, 200'000);
  EXPECT_LE(stats.slate_us, stats.total_us);
  EXPECT_GT(session.segments()[1].slate_us, 100'000);
  EXPECT_EQ(session.segments()[2].slate_us, 0);

  session.clear_cache();
  Slow::slate_time = milliseconds(0);
  Slow::prefix_time = milliseconds(120);
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
  Slow::during = [&] {
    candidates.push_back(session.segments()[0].candidates);
    EXPECT_EQ(session.memory().buffers, buffers);
  };
  score();
  Slow::during = nullptr;
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
  const auto with_zero = std::make_shared<const LoadedBundle>(
      open_source(bundles() + "/sound_with_zero/bundle"), nullptr,
      [](const Bundle& bundle) { return BackendFactory([slow = std::make_shared<const Slow>(bundle)] { return slow; }); },
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
  EXPECT_THROW(assemble(loaded->bundle, request.query, over, retrieval, prompt), Error);
  EXPECT_EQ(prompt.candidates(), 0u);
  assemble(loaded->bundle, request.query, none, retrieval, prompt);
  EXPECT_EQ(prompt.candidates(), 20u);

  request.query.recent.push_back({3, true});  // so that similar users are searched for
  retrieval.begin(request.query, over);
  EXPECT_THROW(retrieval.similar_users(), Error);
  retrieval.begin(request.query, none);
  EXPECT_FALSE(retrieval.similar_users().empty());
}

// Each candidate reads fewer rows than are counted between two checks.
TEST_F(DeadlineTest, ExitZerosNumbersCheckIt) {
  const Bundle bundle(open_source(bundles() + "/sound_with_zero/bundle"), nullptr);
  Retrieval retrieval(bundle.catalog());
  std::vector<float> numbers;
  const Deadline over(Clock::now() - milliseconds(10), 1'000);
  retrieval.begin(request.query, over);
  EXPECT_THROW(retrieval.numbers(nullptr, numbers), Error);
  EXPECT_TRUE(numbers.empty());
}

// Like TensorRT, it cannot stop a run.
TEST_F(DeadlineTest, ABackendThatCannotStopIsCancelledBetweenSegments) {
  request.query.items.resize(1);
  score();
  Slow::slate_time = milliseconds(200);
  std::thread cancelling([&] {
    std::this_thread::sleep_for(milliseconds(50));
    session.cancel();
  });
  try {
    score();
    ADD_FAILURE() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), REXIT_CANCELLED);
  }
  cancelling.join();
  EXPECT_EQ(session.segments()[0].candidates, 1u);
  EXPECT_EQ(session.segments()[1].candidates, 0u);
}

// ONNX Runtime itself ends a run after a stop request, and later runs are not affected.
TEST(Stop, EndsARunOfOnnxRuntime) {
  const Bundle bundle(open_source(sound_bundle()), nullptr);
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

// rexit.hpp over the real backend.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

const std::vector<rexit::Id> slate{std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}, std::int64_t{3}};

rexit::Request request(std::int64_t user = 106) { return rexit::Request(user).items(slate); }

class SessionTest : public testing::Test {
 protected:
  rexit::Bundle bundle{sound_bundle()};
  rexit::Session session{bundle};
};

TEST_F(SessionTest, ForcedExitsAreTheTrace) {
  const std::vector<float> trace = session.trace(request()).log_odds;
  for (std::uint32_t exit = 0; exit < 3; ++exit) {
    const rexit::Scores scores = session.score(request().force_exit(exit));
    for (std::size_t i = 0; i < slate.size(); ++i) EXPECT_EQ(scores.scores[i].log_odds, trace[3 * i + exit]);
  }
}

TEST_F(SessionTest, PolicyDropsCandidatesOnTheWay) {
  const std::vector<float> trace = session.trace(request()).log_odds;
  rexit::Policy policy{std::vector<float>(3, 2.0f), std::vector<float>(3, 2.0f), 1};
  const rexit::Scores scores = session.score(request().policy(policy));
  for (std::size_t i = 0; i < slate.size(); ++i) {
    std::size_t exit = 0;
    while (exit < 2 && std::fabs(trace[3 * i + exit]) < 2.0f) ++exit;
    EXPECT_EQ(scores.scores[i].exit, exit);
    EXPECT_NEAR(scores.scores[i].log_odds, trace[3 * i + exit], 1e-3);
  }
}

// tests/damage/policies.py has its conditions.
TEST(Opening, WarnsOnceOfAPolicyCalibratedElsewhere) {
  std::vector<std::string> lines;
  rexit_set_log(
      [](void* context, rexit_log_level, const char* line) { static_cast<std::vector<std::string>*>(context)->push_back(line); },
      &lines, REXIT_LOG_WARNING);
  const rexit::Bundle sound(sound_bundle());
  EXPECT_TRUE(lines.empty());
  const rexit::Bundle bundle(bundles() + "/policy_made_elsewhere/bundle");
  const rexit::Session session(bundle);
  rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("variants/cpu-fp32/policy.json: calibrated with device cuda, here cpu; threads 77, here "),
            std::string::npos)
      << lines[0];
  for (const char* part : {"; architecture pdp11, here ", "; onnxruntime 0.9.1, here 1.", "; rexit 0.0.9, here 0.1.0: "})
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
}

// tests/damage/policies.py: its policy was calibrated on slates of up to four.
TEST(Scoring, WarnsOnceOfASlateLongerThanCalibrations) {
  std::vector<std::string> lines;
  const rexit::Bundle bundle(bundles() + "/policy_made_for_short_slates/bundle");
  rexit::Session session(bundle), another(bundle);
  rexit_set_log(
      [](void* context, rexit_log_level, const char* line) { static_cast<std::vector<std::string>*>(context)->push_back(line); },
      &lines, REXIT_LOG_WARNING);
  std::vector<rexit::Id> five = slate;
  five.emplace_back(std::int64_t{13});
  const rexit::Request longer = rexit::Request(106).items(five);
  session.score(request());
  session.score(rexit::Request(longer).force_exit(1));
  session.score(rexit::Request(longer).policy({std::vector<float>(3, 2.0f), std::vector<float>(3, 2.0f), 1}));
  session.trace(longer);
  EXPECT_EQ(lines.size(), 0u) << "the policy decided on none of these";
  session.score(longer);
  another.score(longer);
  rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("variants/cpu-fp32/policy.json: calibrated on slates of up to 4 candidates, a request has 5: "),
            std::string::npos)
      << lines[0];
}

TEST_F(SessionTest, SegmentsReportTheirWork) {
  const rexit::Scores scores = session.score(request().force_exit(1));
  const std::vector<rexit_segment_stats> segments = session.segments();
  ASSERT_EQ(segments.size(), 3u);
  for (std::size_t k = 0; k < 2; ++k) {
    EXPECT_EQ(segments[k].prefix_tokens, scores.stats.prefix_tokens);
    EXPECT_EQ(segments[k].candidates, slate.size());
    EXPECT_EQ(segments[k].candidate_tokens, scores.stats.candidate_tokens);
  }
  EXPECT_EQ(segments[2].candidates + segments[2].prefix_tokens, 0u);
  EXPECT_LE(segments[0].slate_us + segments[1].slate_us, scores.stats.slate_us);
  EXPECT_GT(segments[1].slate_us, 0);
}

TEST_F(SessionTest, TrimReleasesMemoryAndTheNextRequestWorks) {
  const std::vector<float> before = session.trace(request()).log_odds;
  const rexit_memory used = session.memory();
  EXPECT_TRUE(used.prefixes > 0 && used.buffers > 0 && used.working > 0);
  session.trim();
  const rexit_memory trimmed = session.memory();
  EXPECT_EQ(trimmed.prefixes, 0u);
  EXPECT_LT(trimmed.working, used.working);
  EXPECT_LT(trimmed.buffers, used.buffers);
  EXPECT_EQ(session.trace(request()).log_odds, before);
}

TEST_F(SessionTest, PromptEndsWithTheLastCandidate) {
  const rexit::Prompt prompt = session.prompt(request());
  EXPECT_EQ(prompt.offsets.size(), slate.size() + 2);
  EXPECT_EQ(prompt.offsets.back(), prompt.tokens.size());
}

TEST_F(SessionTest, ErrorsCarryTheirStatus) {
  try {
    session.score(rexit::Request(std::int64_t{1}).items({std::string("x")}));
    FAIL();
  } catch (const rexit::Error& error) {
    EXPECT_EQ(error.status(), REXIT_INVALID_ARGUMENT);
    EXPECT_NE(std::string(error.what()).find("items[0]"), std::string::npos);
  }
  EXPECT_THROW(session.score(rexit::Request(std::int64_t{1})), rexit::Error);
}

TEST_F(SessionTest, SessionsOfOneBundleRunSideBySide) {
  const std::vector<float> expected = session.trace(request()).log_odds;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      rexit::Session own(bundle);
      for (int i = 0; i < 20; ++i) {
        const std::vector<float> log_odds = own.trace(request(i % 2 == 0 ? 106 : 109)).log_odds;
        if (i % 2 == 0)
          for (std::size_t k = 0; k < log_odds.size(); ++k) EXPECT_NEAR(log_odds[k], expected[k], 1e-3);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

// As a thread does that reports metrics: neither it nor the calls are refused.
TEST_F(SessionTest, ItIsReadWhileItScores) {
  std::atomic<bool> done{false};
  std::thread metrics([&] {
    do {
      EXPECT_NO_THROW(session.segments());
      EXPECT_NO_THROW(session.memory());
    } while (!done);
  });
  for (int i = 0; i < 200; ++i) EXPECT_NO_THROW(session.score(request()));
  done = true;
  metrics.join();
}

TEST_F(SessionTest, ASessionServesOneThreadAtATime) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  int refused = 0, served = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        try {
          session.trace(request());
          const std::lock_guard<std::mutex> lock(mutex);
          ++served;
        } catch (const rexit::Error& error) {
          const std::lock_guard<std::mutex> lock(mutex);
          EXPECT_EQ(error.status(), REXIT_INVALID_ARGUMENT);
          ++refused;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(served, 0);
  EXPECT_EQ(served + refused, 200);
}

}  // namespace

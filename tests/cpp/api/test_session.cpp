// A session and its threads, and a slate longer than calibration's.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "refused.hpp"
#include "rexit/rexit.hpp"

namespace {

const std::vector<rexit::Id> slate{std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}, std::int64_t{3}};

rexit::Request request() { return rexit::Request(std::int64_t{106}).items(slate); }

class SessionTest : public testing::Test {
 protected:
  rexit::Bundle bundle{sound_bundle()};
  rexit::Session session{bundle};
};

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
  session.score(longer, {0, 0, rexit::Policy{std::vector<float>(3, 2.0f), std::vector<float>(3, 2.0f), 1}.json()});
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

// A session that warns does so within its call.
TEST(Scoring, ASessionServesOneCallAtATime) {
  rexit::Session session{rexit::Bundle(bundles() + "/policy_made_for_short_slates/bundle")};
  std::vector<rexit::Id> five = slate;
  five.emplace_back(std::int64_t{13});
  rexit_set_log(
      [](void* context, rexit_log_level, const char*) {
        refused([&] { static_cast<rexit::Session*>(context)->score(request()); }, REXIT_INVALID_ARGUMENT, "is in use");
      },
      &session, REXIT_LOG_WARNING);
  EXPECT_EQ(session.score(rexit::Request(106).items(five)).scores.size(), five.size());
  rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
  EXPECT_NO_THROW(session.score(request()));
}

}  // namespace

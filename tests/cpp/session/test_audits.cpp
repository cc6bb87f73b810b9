// Which slates a session draws, what it keeps of them, and how an audit ends, over a backend that fails as told.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "session/host_backend.hpp"

using namespace rexit::core;

namespace {

// SplitMix64's first outputs for seed 1234567, from its authors' program: 6457827717110365317, 3203168211198807973.
TEST(IsDrawn, BitsAreThoseOfSplitMix64) {
  constexpr double first = 6457827717110365317.0 / 18446744073709551616.0,
                   second = 3203168211198807973.0 / 18446744073709551616.0;
  EXPECT_FALSE(is_drawn(1234567, 0, first - 1e-12));
  EXPECT_TRUE(is_drawn(1234567, 0, first + 1e-12));
  EXPECT_FALSE(is_drawn(1234567, 1, second - 1e-12));
  EXPECT_TRUE(is_drawn(1234567, 1, second + 1e-12));
  EXPECT_FALSE(is_drawn(1234567, 0, 0));
  EXPECT_TRUE(is_drawn(1234567, 0, 1));
}

Prompt prompt_of(std::int32_t token) {
  Prompt prompt;
  prompt.tokens = {token, token, token};
  prompt.offsets = {0, 1, 2, 3};
  return prompt;
}

TEST(Audits, KeepsOneSlateAsItWas) {
  Audits audits({1, 1});
  std::vector<Answer> answers(2);
  for (std::uint32_t i = 0; i < 2; ++i) {
    answers[i].exit = i;
    answers[i].calibrated = 0.5f + static_cast<float>(i);
  }
  EXPECT_EQ(audits.draw(prompt_of(3), answers), REXIT_DRAWN);
  answers[0].cut_short = true;
  EXPECT_EQ(audits.draw(prompt_of(4), answers), REXIT_SKIPPED_WAITING);
  const AuditedSlate* waiting = audits.waiting();
  ASSERT_NE(waiting, nullptr);
  EXPECT_EQ(waiting->prompt.tokens, std::vector<std::int32_t>(3, 3));
  EXPECT_EQ(waiting->exits, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(waiting->policy_c, (std::vector<float>{0.5f, 1.5f}));
  answers[1].calibrated = 7;
  const AuditedSlate& slate = audits.finish(answers);
  EXPECT_EQ(slate.full_c[1], 7);
  EXPECT_EQ(audits.waiting(), nullptr);
  EXPECT_EQ(audits.draw(prompt_of(4), answers), REXIT_SKIPPED_DEADLINE) << "a candidate was cut short";
  answers[0].cut_short = false;
  answers[0].exit = REXIT_NO_EXIT;
  EXPECT_EQ(audits.draw(prompt_of(4), answers), REXIT_SKIPPED_DEADLINE) << "a candidate has no answer";
  EXPECT_EQ(audits.counts().drawn, 4u);
  EXPECT_EQ(audits.counts().audited, 1u);
  EXPECT_EQ(audits.counts().skipped, 3u);
}

class AuditTest : public testing::Test {
 protected:
  AuditTest() {
    request.query.user = 2;
    for (Row item = 0; item < 4; ++item) request.query.items.push_back(item);
    request.has_policy = true;
    request.policy = loaded->bundle.policy();
    request.policy.exits[0].upper = -1e9f;  // all stop at the first exit
  }
  ~AuditTest() override {
    ScriptedBackend::fails_after = 0;
    ScriptedBackend::during = nullptr;
  }

  std::int32_t score() {
    rexit_stats stats{};
    session.discard_cancellation();
    session.score(request, Clock::now(), stats);
    return stats.draw;
  }
  rexit_status audit_status() {
    try {
      return session.audit() == nullptr ? REXIT_NOT_FOUND : REXIT_OK;
    } catch (const Error& error) {
      return error.status();
    }
  }

  std::shared_ptr<const LoadedBundle> loaded = load_over<ScriptedBackend>(sound_bundle());
  Session session{loaded, 0, 0, {1, 1}};
  Request request;
};

TEST_F(AuditTest, ACancelledSlateStillWaits) {
  ASSERT_EQ(score(), REXIT_DRAWN);
  ScriptedBackend::during = [this] { session.cancel(); };
  EXPECT_EQ(audit_status(), REXIT_CANCELLED);
  ScriptedBackend::during = nullptr;
  EXPECT_EQ(score(), REXIT_SKIPPED_WAITING);
  EXPECT_EQ(audit_status(), REXIT_OK);
  EXPECT_EQ(audit_status(), REXIT_NOT_FOUND);
  EXPECT_EQ(session.audit_counts().audited, 1u);
}

TEST_F(AuditTest, ASlateThatFailsIsSkipped) {
  ASSERT_EQ(score(), REXIT_DRAWN);
  ScriptedBackend::fails_after = 1;
  EXPECT_EQ(audit_status(), REXIT_BACKEND_FAILED);
  ScriptedBackend::fails_after = 0;
  EXPECT_EQ(audit_status(), REXIT_NOT_FOUND);
  EXPECT_EQ(session.audit_counts().skipped, 1u);
  EXPECT_EQ(score(), REXIT_DRAWN);
}

TEST_F(AuditTest, ASlateWhoseScoreFailsIsNotDrawn) {
  ScriptedBackend::fails_after = 1;
  EXPECT_THROW(score(), Error);
  ScriptedBackend::fails_after = 0;
  EXPECT_EQ(session.audit_counts().drawn, 0u);
  EXPECT_EQ(audit_status(), REXIT_NOT_FOUND);
}

TEST_F(AuditTest, WhatNoPolicyStopsIsNotDrawn) {
  request.has_policy = false;
  EXPECT_EQ(score(), REXIT_NOT_DRAWN) << "the bundle has no policy";
  request.has_policy = true;
  request.force_exit = 1;
  EXPECT_EQ(score(), REXIT_NOT_DRAWN);
  EXPECT_EQ(session.audit_counts().drawn, 0u);
  request.force_exit.reset();
  EXPECT_EQ(score(), REXIT_DRAWN);
}

TEST_F(AuditTest, TrimmingSkipsWhatWaitsAndReleasesItsMemory) {
  Session plain(loaded, 0);
  rexit_stats stats{};
  plain.score(request, Clock::now(), stats);
  EXPECT_EQ(stats.draw, REXIT_NOT_DRAWN);
  ASSERT_EQ(score(), REXIT_DRAWN);
  ASSERT_EQ(score(), REXIT_SKIPPED_WAITING);  // memory() is that of the end of a call
  EXPECT_GE(session.memory().buffers, plain.memory().buffers + stats.candidate_tokens * sizeof(std::int32_t));
  session.trim();
  plain.trim();
  EXPECT_EQ(session.memory().buffers, plain.memory().buffers);
  EXPECT_EQ(audit_status(), REXIT_NOT_FOUND);
  EXPECT_EQ(session.audit_counts().skipped, 2u);
}

}  // namespace

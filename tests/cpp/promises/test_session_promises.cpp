// What rexit.h promises of sessions, of requests and their answers, and of what a session reports.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "promises/promises.hpp"
#include "rexit/rexit.hpp"

namespace {

TEST_F(Promises, APromptHasItsParts) {
  rexit_prompt prompt{};
  ASSERT_EQ(rexit_session_prompt(session, request.data(), request.size(), &prompt), REXIT_OK);
  ASSERT_EQ(prompt.candidate_count, 3u);
  EXPECT_TRUE(std::is_sorted(prompt.ends, prompt.ends + 4));
  for (std::size_t i = 0; i < prompt.ends[3]; ++i) EXPECT_GE(prompt.tokens[i], 0);
}

TEST_F(Promises, PromptsNeedNoModel) {
  rexit_prompt prompt{};
  ASSERT_EQ(rexit_session_prompt(session, request.data(), request.size(), &prompt), REXIT_OK);
  EXPECT_EQ(segment(0).prefix_tokens + segment(0).candidates, 0u);
  EXPECT_EQ(memory().prefixes, 0u);
}

TEST_F(Promises, TraceIgnoresForcedExitDeadlineAndTopK) {
  expect_near(trace(R"({"user": 106, "items": [-7, 8, 88], "force_exit": 1, "deadline_ms": 0.001, "top_k": 1})"), trace(request));
}

TEST_F(Promises, WarmingUpRunsEachSegmentOnceOnALargeSlateAndDropsPrefixes) {
  rexit_bundle_info info{};
  ASSERT_EQ(rexit_bundle_get_info(bundle, &info), REXIT_OK);
  ASSERT_EQ(rexit_session_warm_up(session), REXIT_OK);
  const rexit_memory warm = memory();
  const rexit_segment_stats dummy = segment(0);
  for (std::size_t k = 0; k < info.exits; ++k) {
    EXPECT_LE(segment(k).candidate_tokens, info.max_tokens);
    EXPECT_GT(2 * segment(k).candidate_tokens, info.max_tokens);
    EXPECT_EQ(segment(k).prefix_tokens, dummy.prefix_tokens);
  }
  for (const std::int64_t number : {100, 106, 112}) {
    ASSERT_EQ(rexit_session_clear_cache(session), REXIT_OK);
    trace(rexit::Request(number).items({-7, 8, 88}).json());
    EXPECT_GT(segment(0).prefix_tokens, 0u);
    EXPECT_LE(segment(0).prefix_tokens, dummy.prefix_tokens);
    EXPECT_LE(memory().prefixes, warm.prefixes);
  }
  ASSERT_EQ(rexit_session_warm_up(session), REXIT_OK);
  trace(request);
  EXPECT_GT(segment(0).prefix_tokens, 0u) << "the last prefix was dropped";
}

TEST_F(Promises, SegmentsAreOfTheLastCallWhetherItSucceededOrNot) {
  trace(request);
  EXPECT_EQ(segment(2).candidates, 3u);
  rexit_prompt prompt{};
  ASSERT_EQ(rexit_session_prompt(session, request.data(), request.size(), &prompt), REXIT_OK);
  EXPECT_EQ(segment(2).candidates, 3u) << "a prompt is neither a score nor a trace";
  ASSERT_EQ(rexit_session_warm_up(session), REXIT_OK);
  EXPECT_EQ(segment(2).candidates, 1u);
  EXPECT_EQ(score(unknown), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(segment(2).candidates, 0u);
  trace(request);
  const float* log_odds = nullptr;
  std::size_t count = 0;
  EXPECT_EQ(rexit_session_trace(session, unknown.data(), unknown.size(), &log_odds, &count, nullptr), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(segment(2).candidates, 0u);
}

// Prefixes of different users' last items, until more of them take no more memory.
TEST_F(Promises, TheCacheLimitIs32MiBByDefault) {
  if (!slow()) GTEST_SKIP() << "fills the cache: make test-all";
  constexpr std::size_t limit = std::size_t{32} << 20;
  std::size_t most = 0, prefixes = 0;
  for (std::size_t since = 0; prefixes < 4000 && since < 100; ++prefixes, ++since) {
    std::vector<rexit::Id> recent;
    for (std::size_t i = 0, n = prefixes; i < 4; ++i, n /= 8) recent.emplace_back(-7 + 5 * static_cast<std::int64_t>(n % 8));
    trace(rexit::Request(100 + 3 * static_cast<std::int64_t>(prefixes % 11)).items({-7}).recent(recent).json());
    if (memory().prefixes > most) since = 0;
    most = std::max(most, memory().prefixes);
  }
  EXPECT_LE(most, limit);
  EXPECT_GE(most, limit - (limit >> 6)) << "after " << prefixes << " prefixes";
}

TEST_F(Promises, PrefixesAreASessionsOwn) {
  trace(request);
  EXPECT_GT(memory().prefixes, 0u);
  EXPECT_EQ(memory().pinned, 0u) << "its prefixes have a start of two tokens in common";
  rexit_session* other = nullptr;
  ASSERT_EQ(rexit_session_create(bundle, nullptr, &other), REXIT_OK);
  rexit_memory theirs{};
  ASSERT_EQ(rexit_session_get_memory(other, &theirs), REXIT_OK);
  rexit_session_destroy(other);
  EXPECT_EQ(theirs.prefixes, 0u);
}

}  // namespace

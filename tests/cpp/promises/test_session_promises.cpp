// What rexit.h promises of sessions, of requests and their answers, and of what a session reports.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "promises/promises.hpp"

namespace {

TEST_F(Promises, PromptsGiveTheirSizeAndWriteNothingThatDoesNotFit) {
  std::size_t count = 0, offsets[5] = {77, 77, 77, 77, 77};
  ASSERT_EQ(rexit_session_prompt(session, &request, nullptr, 0, nullptr, &count), REXIT_OK);
  std::vector<std::int32_t> tokens(count, -77);
  std::size_t again = 0;
  ASSERT_EQ(rexit_session_prompt(session, &request, tokens.data(), count - 1, offsets, &again), REXIT_OK);
  EXPECT_EQ(again, count);
  EXPECT_EQ(tokens, std::vector<std::int32_t>(count, -77));
  EXPECT_EQ(offsets[0], 77u);
  ASSERT_EQ(rexit_session_prompt(session, &request, tokens.data(), count, offsets, &again), REXIT_OK);
  EXPECT_EQ(offsets[0], 0u);
  EXPECT_EQ(offsets[4], count);
  for (const std::int32_t token : tokens) EXPECT_GE(token, 0);
}

TEST_F(Promises, APromptWithoutRoomForItsPartsWritesNothing) {
  std::size_t count = 77, offsets[5] = {77, 77, 77, 77, 77};
  std::int32_t tokens[200] = {-77};
  EXPECT_EQ(rexit_session_prompt(session, &request, tokens, 200, nullptr, &count), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(rexit_session_prompt(session, &request, nullptr, 200, offsets, &count), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(count, 77u);
  EXPECT_EQ(offsets[0], 77u);
  EXPECT_EQ(tokens[0], -77);
}

TEST_F(Promises, PromptsNeedNoModel) {
  std::size_t count = 0;
  ASSERT_EQ(rexit_session_prompt(session, &request, nullptr, 0, nullptr, &count), REXIT_OK);
  EXPECT_EQ(segment(0).prefix_tokens + segment(0).candidates, 0u);
  EXPECT_EQ(memory().prefixes, 0u);
}

TEST_F(Promises, TraceIgnoresPolicyForcedExitDeadlineAndTopK) {
  const std::vector<float> plain = trace(request);
  const float never[3] = {0, 0, 0};
  rexit_policy policy = sized<rexit_policy>();
  policy.upper = policy.lower = never;
  policy.exits = 3;
  policy.patience = 1;
  request.policy = &policy;
  request.has_force_exit = 1;
  request.deadline_us = 1;
  request.top_k = 1;
  expect_near(trace(request), plain);

  // Values that rexit_session_score refuses.
  request.deadline_us = -1;
  request.force_exit = 99;
  policy.patience = 0;
  policy.exits = 99;
  expect_near(trace(request), plain);
  rexit_score scores[3];
  EXPECT_EQ(rexit_session_score(session, &request, scores, nullptr), REXIT_INVALID_ARGUMENT);
}

TEST_F(Promises, WarmingUpRunsEachSegmentOnceOnALargeSlateAndDropsPrefixes) {
  rexit_bundle_info info = sized<rexit_bundle_info>();
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
    user.number = number;
    ASSERT_EQ(rexit_session_clear_cache(session), REXIT_OK);
    trace(request);
    EXPECT_GT(segment(0).prefix_tokens, 0u);
    EXPECT_LE(segment(0).prefix_tokens, dummy.prefix_tokens);
    EXPECT_LE(memory().prefixes, warm.prefixes);
    EXPECT_LE(memory().working, warm.working);
  }
  ASSERT_EQ(rexit_session_warm_up(session), REXIT_OK);
  trace(request);
  EXPECT_GT(segment(0).prefix_tokens, 0u) << "the last prefix was dropped";
}

TEST_F(Promises, SegmentsAreOfTheLastCallWhetherItSucceededOrNot) {
  trace(request);
  EXPECT_EQ(segment(2).candidates, 3u);
  std::size_t count = 0;
  ASSERT_EQ(rexit_session_prompt(session, &request, nullptr, 0, nullptr, &count), REXIT_OK);
  EXPECT_EQ(segment(2).candidates, 3u) << "a prompt is neither a score nor a trace";
  ASSERT_EQ(rexit_session_warm_up(session), REXIT_OK);
  EXPECT_EQ(segment(2).candidates, 1u);
  rexit_request refused = request;
  refused.items = unknown;
  refused.item_count = 1;
  rexit_score score{};
  EXPECT_EQ(rexit_session_score(session, &refused, &score, nullptr), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(segment(2).candidates, 0u);
  trace(request);
  float log_odds[3];
  EXPECT_EQ(rexit_session_trace(session, &refused, log_odds, nullptr), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(segment(2).candidates, 0u);
}

// Prefixes of different users' last items, until more of them take no more memory.
TEST_F(Promises, TheCacheLimitIs32MiBByDefault) {
  if (!slow()) GTEST_SKIP() << "fills the cache: make test-all";
  constexpr std::size_t limit = std::size_t{32} << 20;
  request.item_count = 1;
  std::size_t most = 0, prefixes = 0;
  for (std::size_t since = 0; prefixes < 4000 && since < 100; ++prefixes, ++since) {
    rexit_id recent[4];
    for (std::size_t i = 0, n = prefixes; i < 4; ++i, n /= 8) recent[i] = {-7 + 5 * static_cast<std::int64_t>(n % 8), nullptr};
    user.number = 100 + 3 * static_cast<std::int64_t>(prefixes % 11);
    request.recent_items = recent;
    request.recent_count = 4;
    trace(request);
    if (memory().prefixes > most) since = 0;
    most = std::max(most, memory().prefixes);
  }
  EXPECT_LE(most, limit);
  EXPECT_GE(most, limit - (limit >> 6)) << "after " << prefixes << " prefixes";
}

TEST_F(Promises, WorkingMemoryIsOfAllSessionsTogether) {
  trace(request);
  rexit_session* other = nullptr;
  ASSERT_EQ(rexit_session_create(bundle, nullptr, &other), REXIT_OK);
  rexit_memory theirs = sized<rexit_memory>();
  ASSERT_EQ(rexit_session_get_memory(other, &theirs), REXIT_OK);
  rexit_session_destroy(other);
  EXPECT_GT(theirs.working, 0u);
  EXPECT_EQ(theirs.working, memory().working);
  EXPECT_EQ(theirs.weights, memory().weights);
  EXPECT_EQ(theirs.prefixes, 0u);
  EXPECT_EQ(memory().pinned, 0u) << "its prefixes have a start of two tokens in common";
}

}  // namespace

// Promises of rexit.h that no other test is about. promises.toml says which test holds which.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

template <class Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof value;
  return value;
}

// Whether a prefix was computed, taken from the cache or partly from the pinned start changes roundings.
void expect_near(const std::vector<float>& seen, const std::vector<float>& expected) {
  ASSERT_EQ(seen.size(), expected.size());
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_NEAR(seen[i], expected[i], 1e-3);
}

class Promises : public testing::Test {
 protected:
  Promises() {
    EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), nullptr, &bundle), REXIT_OK) << rexit_last_error();
    EXPECT_EQ(rexit_session_create(bundle, nullptr, &session), REXIT_OK);
    request.user = {106, nullptr};
    request.items = items;
    request.item_count = 3;
  }
  ~Promises() override {
    rexit_session_destroy(session);
    rexit_bundle_close(bundle);
  }

  std::vector<float> trace(const rexit_request& asked) {
    std::vector<float> log_odds(3 * asked.item_count);
    EXPECT_EQ(rexit_session_trace(session, &asked, log_odds.data(), nullptr), REXIT_OK) << rexit_last_error();
    return log_odds;
  }
  std::size_t cached() const {
    rexit_memory memory = sized<rexit_memory>();
    EXPECT_EQ(rexit_session_get_memory(session, &memory), REXIT_OK);
    return memory.prefixes;
  }

  rexit_bundle* bundle = nullptr;
  rexit_session* session = nullptr;
  const rexit_id items[3] = {{-7, nullptr}, {8, nullptr}, {88, nullptr}}, unknown[1] = {{1, nullptr}};
  rexit_request request = sized<rexit_request>();
};

TEST_F(Promises, OutputsAreWrittenOnlyOnSuccess) {
  auto* const untouched = reinterpret_cast<rexit_bundle*>(&request);
  rexit_bundle* opened = untouched;
  EXPECT_EQ(rexit_bundle_open("/nowhere", nullptr, &opened), REXIT_NOT_FOUND);
  EXPECT_EQ(opened, untouched);
  rexit_exit_info exit = sized<rexit_exit_info>();
  exit.layers = 77;
  EXPECT_EQ(rexit_bundle_get_exit(bundle, 3, &exit), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(exit.layers, 77u);
  request.items = unknown;
  request.item_count = 1;
  rexit_score score{};
  score.item = 77;
  rexit_stats stats = sized<rexit_stats>();
  stats.prefix_tokens = 77;
  EXPECT_EQ(rexit_session_score(session, &request, &score, &stats), REXIT_UNKNOWN_ITEM);
  float log_odds[3] = {77, 77, 77};
  EXPECT_EQ(rexit_session_trace(session, &request, log_odds, &stats), REXIT_UNKNOWN_ITEM);
  std::size_t count = 77;
  EXPECT_EQ(rexit_session_prompt(session, &request, nullptr, 0, nullptr, &count), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(score.item, 77u);
  EXPECT_EQ(stats.prefix_tokens, 77u);
  EXPECT_EQ(log_odds[0], 77);
  EXPECT_EQ(count, 77u);
}

TEST_F(Promises, EachThreadHasItsOwnLastErrorUntilTheNextFailure) {
  rexit_bundle* opened = nullptr;
  EXPECT_EQ(rexit_bundle_open("/nowhere", nullptr, &opened), REXIT_NOT_FOUND);
  const std::string mine = rexit_last_error();
  EXPECT_NE(mine.find("/nowhere"), std::string::npos);
  std::thread([&] {
    EXPECT_STREQ(rexit_last_error(), "");
    rexit_bundle* other = nullptr;
    EXPECT_EQ(rexit_bundle_open("/elsewhere", nullptr, &other), REXIT_NOT_FOUND);
  }).join();
  trace(request);  // succeeds
  EXPECT_EQ(rexit_last_error(), mine);
}

TEST_F(Promises, NoPointerOfTheCallersIsKept) {
  const std::vector<float> expected = trace(request);
  {
    auto ids = std::make_unique<rexit_id[]>(3);
    std::memcpy(ids.get(), items, sizeof items);
    auto asked = std::make_unique<rexit_request>(request);
    asked->items = ids.get();
    expect_near(trace(*asked), expected);
    std::memset(ids.get(), 0xff, sizeof items);
  }
  expect_near(trace(request), expected);
}

TEST_F(Promises, NullIsClosedAndDestroyedWithoutHarm) {
  rexit_bundle_close(nullptr);
  rexit_session_destroy(nullptr);
}

TEST_F(Promises, SessionsOutliveTheirBundlesHandle) {
  const std::vector<float> before = trace(request);
  rexit_bundle_close(bundle);
  bundle = nullptr;
  EXPECT_EQ(rexit_session_clear_cache(session), REXIT_OK);
  expect_near(trace(request), before);
}

TEST_F(Promises, ASessionMayMoveBetweenThreads) {
  const std::vector<float> here = trace(request);
  std::vector<float> there;
  std::thread([&] { there = trace(request); }).join();
  expect_near(there, here);
}

TEST_F(Promises, AnotherThreadPoolSizeIsRefusedAndTheLibraryIsLoadedOnce) {
  rexit_bundle_options options = sized<rexit_bundle_options>();
  rexit_bundle* again = nullptr;
  options.threads = 61;
  EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), &options, &again), REXIT_INVALID_ARGUMENT);
  options.threads = 0;
  options.onnxruntime_library = "/nowhere/libonnxruntime.so";
  EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), &options, &again), REXIT_OK) << rexit_last_error();
  rexit_bundle_close(again);
}

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
}

TEST_F(Promises, TopKGivesTheBestFirstAndNoMoreThanThereAre) {
  rexit_score all[3], best[3];
  ASSERT_EQ(rexit_session_score(session, &request, all, nullptr), REXIT_OK);
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(all[i].item, i);
  request.top_k = 9;
  ASSERT_EQ(rexit_session_score(session, &request, best, nullptr), REXIT_OK);
  for (std::size_t i = 1; i < 3; ++i) EXPECT_GE(best[i - 1].probability, best[i].probability);
  request.top_k = 1;
  best[1].item = 77;
  ASSERT_EQ(rexit_session_score(session, &request, best, nullptr), REXIT_OK);
  EXPECT_EQ(best[1].item, 77u);
}

TEST_F(Promises, TiesKeepTheOrderOfTheRequest) {
  const rexit_id same[] = {items[1], items[1], items[1]};
  request.items = same;
  request.top_k = 3;
  rexit_score scores[3];
  ASSERT_EQ(rexit_session_score(session, &request, scores, nullptr), REXIT_OK);
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(scores[i].item, i);
}

TEST_F(Promises, AUserWhomTheCatalogLacksIsTheirRecentItems) {
  const rexit_id recent[] = {{13, nullptr}, {3, nullptr}};
  const std::uint8_t liked[] = {1, 1}, disliked[] = {0, 0};
  request.user = {-5, nullptr};
  const std::vector<float> nothing = trace(request);
  request.recent_items = recent;
  request.recent_count = 2;
  const std::vector<float> some = trace(request);
  EXPECT_NE(some, nothing);
  request.recent_liked = liked;
  expect_near(trace(request), some);  // NULL: all liked
  request.recent_liked = disliked;
  EXPECT_NE(trace(request), some);
  request.recent_liked = liked;
  request.user = {-6, nullptr};
  expect_near(trace(request), some);
}

TEST_F(Promises, AsOfHidesWhatCameLater) {
  const std::vector<float> all = trace(request);
  request.as_of = 0;
  expect_near(trace(request), all);  // has_as_of is 0
  request.has_as_of = 1;
  EXPECT_NE(trace(request), all);
}

TEST_F(Promises, ClearingAndWarmingUpDropPrefixesAndTheNextRequestWorks) {
  const std::vector<float> before = trace(request);
  EXPECT_GT(cached(), 0u);
  EXPECT_EQ(rexit_session_clear_cache(session), REXIT_OK);
  rexit_stats stats = sized<rexit_stats>();
  float log_odds[9];
  ASSERT_EQ(rexit_session_trace(session, &request, log_odds, &stats), REXIT_OK);
  expect_near(std::vector<float>(log_odds, log_odds + 9), before);
  ASSERT_EQ(rexit_session_trace(session, &request, log_odds, &stats), REXIT_OK);
  EXPECT_EQ(stats.prefix_tokens_reused, stats.prefix_tokens);
  EXPECT_EQ(rexit_session_warm_up(session), REXIT_OK);
  ASSERT_EQ(rexit_session_trace(session, &request, log_odds, &stats), REXIT_OK);
  EXPECT_LT(stats.prefix_tokens_reused, stats.prefix_tokens);
}

TEST_F(Promises, CountersAreZeroAfterAReset) {
  rexit_score scores[3];
  ASSERT_EQ(rexit_session_score(session, &request, scores, nullptr), REXIT_OK);
  rexit_exit_counters counters = sized<rexit_exit_counters>();
  ASSERT_EQ(rexit_session_get_counters(session, 0, &counters), REXIT_OK);
  EXPECT_EQ(counters.reached, 3u);
  ASSERT_EQ(rexit_session_reset_counters(session), REXIT_OK);
  ASSERT_EQ(rexit_session_get_counters(session, 0, &counters), REXIT_OK);
  EXPECT_EQ(counters.reached, 0u);
  for (const std::uint64_t bin : counters.histogram) EXPECT_EQ(bin, 0u);
}

TEST_F(Promises, TheVariantIsTheFirstAndItsNameOutlivesTheCall) {
  rexit_bundle_info info = sized<rexit_bundle_info>();
  ASSERT_EQ(rexit_bundle_get_info(bundle, &info), REXIT_OK);
  trace(request);
  EXPECT_STREQ(info.variant, "cpu-fp32");
}

}  // namespace

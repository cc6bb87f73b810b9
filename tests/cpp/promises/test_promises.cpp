// What rexit.h promises of all its functions, and of errors and the log.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "promises/promises.hpp"

namespace {

// A call that fails leaves its struct as it was.
template <class Struct, class Member, class Call>
void expect_unchanged(Member Struct::* member, Call call) {
  Struct output{};
  output.*member = 77;
  EXPECT_NE(call(&output), REXIT_OK);
  EXPECT_EQ(output.*member, 77u);
}

TEST_F(Promises, OutputsAreWrittenOnlyOnSuccess) {
  auto* const untouched = reinterpret_cast<rexit_bundle*>(this);
  rexit_bundle* opened = untouched;
  EXPECT_EQ(rexit_bundle_open("/nowhere", nullptr, &opened), REXIT_NOT_FOUND);
  EXPECT_EQ(rexit_bundle_reload(nullptr, &opened), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(opened, untouched);
  auto* created = reinterpret_cast<rexit_session*>(this);
  EXPECT_EQ(rexit_session_create(nullptr, nullptr, &created), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(static_cast<void*>(created), this);
  expect_unchanged(&rexit_variant_info::variant_count,
                   [](auto* out) { return rexit_bundle_get_variant(sound_bundle().c_str(), 1, out); });
  expect_unchanged(&rexit_bundle_info::users, [](auto* out) { return rexit_bundle_get_info(nullptr, out); });
  expect_unchanged(&rexit_exit_info::layers, [this](auto* out) { return rexit_bundle_get_exit(bundle, 3, out); });
  expect_unchanged(&rexit_segment_stats::candidates, [this](auto* out) { return rexit_session_get_segment(session, 3, out); });
  expect_unchanged(&rexit_memory::prefixes, [](auto* out) { return rexit_session_get_memory(nullptr, out); });

  const rexit_score* scores = nullptr;
  const float* log_odds = nullptr;
  std::size_t count = 77;
  rexit_stats stats{};
  stats.prefix_tokens = 77;
  rexit_prompt prompt{};
  prompt.candidate_count = 77;
  const char* const text = unknown.data();
  EXPECT_EQ(rexit_session_score(session, text, unknown.size(), nullptr, &scores, &count, &stats), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(rexit_session_trace(session, text, unknown.size(), &log_odds, &count, &stats), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(rexit_session_prompt(session, text, unknown.size(), &prompt), REXIT_UNKNOWN_ITEM);
  EXPECT_EQ(scores, nullptr);
  EXPECT_EQ(log_odds, nullptr);
  EXPECT_EQ(count, 77u);
  EXPECT_EQ(stats.prefix_tokens, 77u);
  EXPECT_EQ(prompt.candidate_count, 77u);
}

TEST_F(Promises, EachThreadHasItsOwnLastErrorUntilTheNextFailure) {
  rexit_bundle* opened = nullptr;
  EXPECT_EQ(rexit_bundle_open("/nowhere", nullptr, &opened), REXIT_NOT_FOUND);
  const char* const mine = rexit_last_error();
  const std::string text = mine;
  EXPECT_NE(text.find("/nowhere"), std::string::npos);
  std::thread([&] {
    EXPECT_STREQ(rexit_last_error(), "");
    rexit_bundle* other = nullptr;
    EXPECT_EQ(rexit_bundle_open("/elsewhere", nullptr, &other), REXIT_NOT_FOUND);
  }).join();
  trace(request);  // succeeds
  EXPECT_EQ(mine, text);
  EXPECT_EQ(rexit_last_error(), text);
}

TEST_F(Promises, NoPointerOfTheCallersIsKept) {
  const std::vector<float> expected = trace(request);
  {
    auto copy = std::make_unique<std::string>(request);
    expect_near(trace(*copy), expected);
    std::fill(copy->begin(), copy->end(), '\xff');
  }
  expect_near(trace(request), expected);
}

// The heap does not grow after the first rounds; the address sanitizer reports leaks at the end.
TEST_F(Promises, HandlesAreAllThereIsToRelease) {
  const auto round = [this] {
    rexit_bundle* own = nullptr;
    rexit_session* scoring = nullptr;
    EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), nullptr, &own), REXIT_OK);
    EXPECT_EQ(rexit_session_create(own, nullptr, &scoring), REXIT_OK);
    EXPECT_EQ(score(request, scoring), REXIT_OK);
    rexit_session_destroy(scoring);
    rexit_bundle_close(own);
    return ::mallinfo2().uordblks;
  };
  for (int n = 0; n < 5; ++n) round();
  std::size_t before = 0, after = SIZE_MAX;  // what a thread that ends leaves for a moment is no leak
  for (int n = 0; n < 5; ++n) before = std::max(before, round());
  for (int n = 0; n < 15; ++n) round();
  for (int n = 0; n < 5; ++n) after = std::min(after, round());
  EXPECT_LT(after, before + 20 * 1000);  // a session alone takes more than that, a round
}

// A warning is due, and this process has set no log.
TEST_F(Promises, NothingIsLoggedByDefault) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  rexit_bundle* elsewhere = nullptr;
  EXPECT_EQ(rexit_bundle_open((bundles() + "/policy_made_elsewhere/bundle").c_str(), nullptr, &elsewhere), REXIT_OK);
  rexit_bundle_close(elsewhere);
  EXPECT_EQ(testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout(), "");
}

struct Calls {
  int lines = 0, nested = 0;
};

// Opens, scores and closes. The lines that this logs come back here and are only counted.
void call_rexit(void* context, rexit_log_level, const char*) {
  auto* calls = static_cast<Calls*>(context);
  ++calls->lines;
  if (calls->nested++ == 0) {
    const std::string request = R"({"user": 106, "items": [8]})";
    const rexit_score* scores = nullptr;
    std::size_t count = 0;
    rexit_bundle* bundle = nullptr;
    rexit_session* session = nullptr;
    if (rexit_bundle_verify(sound_bundle().c_str(), nullptr) != REXIT_OK ||
        rexit_bundle_open(sound_bundle().c_str(), nullptr, &bundle) != REXIT_OK ||
        rexit_session_create(bundle, nullptr, &session) != REXIT_OK || rexit_session_warm_up(session) != REXIT_OK ||
        rexit_session_score(session, request.data(), request.size(), nullptr, &scores, &count, nullptr) != REXIT_OK ||
        rexit_session_trim(session) != REXIT_OK)
      calls->lines = -1000;
    rexit_session_destroy(session);
    rexit_bundle_close(bundle);
  }
  --calls->nested;
}

// In a process that has not loaded ONNX Runtime, which logs as well: GoogleTest runs death tests first.
TEST(PromisesDeathTest, ALogMayCallAnyFunction) {
  EXPECT_EXIT(
      {
        Calls calls;
        rexit_bundle* bundle = nullptr;
        ::alarm(120);  // rather than to wait for ever
        rexit_set_log(call_rexit, &calls, REXIT_LOG_DEBUG);
        const rexit_status status = rexit_bundle_open(sound_bundle().c_str(), nullptr, &bundle);
        rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
        std::exit(status == REXIT_OK && calls.lines >= 2 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace

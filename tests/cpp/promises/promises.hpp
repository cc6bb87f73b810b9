// What tests of rexit.h's promises begin with: the sound bundle, opened, a session, and a request of three candidates.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.h"

// Roundings depend on whether a prefix was computed, cached or partly copied from the pinned start.
inline void expect_near(const std::vector<float>& log_odds, const std::vector<float>& expected) {
  ASSERT_EQ(log_odds.size(), expected.size());
  for (std::size_t i = 0; i < log_odds.size(); ++i) EXPECT_NEAR(log_odds[i], expected[i], 1e-3);
}

class Promises : public testing::Test {
 protected:
  Promises() {
    EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), nullptr, &bundle), REXIT_OK) << rexit_last_error();
    EXPECT_EQ(rexit_session_create(bundle, nullptr, &session), REXIT_OK);
  }
  ~Promises() override {
    rexit_session_destroy(session);
    rexit_bundle_close(bundle);
  }

  std::vector<float> trace(const std::string& json) {
    const float* log_odds = nullptr;
    std::size_t count = 0;
    EXPECT_EQ(rexit_session_trace(session, json.data(), json.size(), &log_odds, &count, nullptr), REXIT_OK) << rexit_last_error();
    return {log_odds, log_odds + 3 * count};
  }
  // The status of a score.
  rexit_status score(const std::string& json, rexit_session* scoring = nullptr) {
    const rexit_score* scores = nullptr;
    std::size_t count = 0;
    return rexit_session_score(scoring != nullptr ? scoring : session, json.data(), json.size(), nullptr, &scores, &count,
                               nullptr);
  }
  rexit_memory memory() const {
    rexit_memory memory{};
    EXPECT_EQ(rexit_session_get_memory(session, &memory), REXIT_OK);
    return memory;
  }
  rexit_segment_stats segment(std::size_t number) const {
    rexit_segment_stats stats{};
    EXPECT_EQ(rexit_session_get_segment(session, number, &stats), REXIT_OK);
    return stats;
  }

  rexit_bundle* bundle = nullptr;
  rexit_session* session = nullptr;
  const std::string request = R"({"user": 106, "items": [-7, 8, 88]})", unknown = R"({"user": 106, "items": [1]})";
};

// What tests of rexit.h's promises begin with: the sound bundle, opened, a session, and a request of three candidates.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.h"

template <class Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof value;
  return value;
}

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
    request.id_size = sizeof(rexit_id);
    request.score_size = sizeof(rexit_score);
    request.user = &user;
    request.items = items;
    request.item_count = 3;
  }
  ~Promises() override {
    rexit_session_destroy(session);
    rexit_bundle_close(bundle);
  }

  std::vector<float> trace(const rexit_request& c_request) {
    std::vector<float> log_odds(3 * c_request.item_count);
    EXPECT_EQ(rexit_session_trace(session, &c_request, log_odds.data(), nullptr), REXIT_OK) << rexit_last_error();
    return log_odds;
  }
  std::vector<rexit_score> score(const rexit_request& c_request) {
    std::vector<rexit_score> scores(c_request.item_count);
    EXPECT_EQ(rexit_session_score(session, &c_request, scores.data(), nullptr), REXIT_OK) << rexit_last_error();
    return scores;
  }
  rexit_memory memory() const {
    rexit_memory memory = sized<rexit_memory>();
    EXPECT_EQ(rexit_session_get_memory(session, &memory), REXIT_OK);
    return memory;
  }
  rexit_segment_stats segment(std::size_t number) const {
    rexit_segment_stats stats = sized<rexit_segment_stats>();
    EXPECT_EQ(rexit_session_get_segment(session, number, &stats), REXIT_OK);
    return stats;
  }

  rexit_bundle* bundle = nullptr;
  rexit_session* session = nullptr;
  const rexit_id items[3] = {{-7, nullptr}, {8, nullptr}, {88, nullptr}}, unknown[1] = {{1, nullptr}};
  rexit_id user = {106, nullptr};
  rexit_request request = sized<rexit_request>();
};

// rexit_session_score_many over the real backend.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

constexpr float never = std::numeric_limits<float>::infinity();

rexit::Policy thresholds(float limit) { return {{limit, limit, never}, {limit, limit, never}, 1}; }

rexit::Request request(std::int64_t user, const std::vector<std::int64_t>& items = {-7, 8, 88}) {
  return rexit::Request(user).items({items.begin(), items.end()});
}

// Of every kind of rule.
std::vector<rexit::Request> requests() {
  rexit::Policy quorum = thresholds(never);
  quorum.quorum = 0.7f;
  return {request(106),
          request(106, {88, 8}).policy(thresholds(2)),
          request(100, {3, 13, 23, 33}).policy(thresholds(2)),
          request(109, {8}).force_exit(1),
          request(7777, {8, 3}).recent({std::int64_t{13}, std::int64_t{-7}}).policy(thresholds(6)),
          request(103, {3, 13, 18}).top_k(2),
          request(112).policy(quorum)};
}

class Many : public testing::TestWithParam<const char*> {
 protected:
  rexit::Bundle bundle{bundles() + "/sound_fused/bundle", rexit::BundleOptions{GetParam(), "", 0}};
  rexit::Session together{bundle}, alone{bundle};

  bool shares_passes() const { return std::string(GetParam()) == "cpu-fused"; }
};

void expect_equal(const rexit::Scores& actual, const rexit::Scores& expected) {
  ASSERT_EQ(actual.scores.size(), expected.scores.size());
  for (std::size_t i = 0; i < actual.scores.size(); ++i) {
    EXPECT_EQ(actual.scores[i].item, expected.scores[i].item);
    EXPECT_EQ(actual.scores[i].exit, expected.scores[i].exit);
    EXPECT_EQ(actual.scores[i].cut_short, expected.scores[i].cut_short);
    EXPECT_NEAR(actual.scores[i].log_odds, expected.scores[i].log_odds, 1e-3f);
    EXPECT_NEAR(actual.scores[i].probability, expected.scores[i].probability, 1e-4f);
  }
  const rexit_stats &a = actual.stats, &e = expected.stats;
  EXPECT_EQ(a.prefix_tokens, e.prefix_tokens);
  EXPECT_EQ(a.prefix_tokens_reused, e.prefix_tokens_reused);
  EXPECT_EQ(a.candidate_tokens, e.candidate_tokens);
  EXPECT_EQ(a.candidate_layers, e.candidate_layers);
  EXPECT_EQ(a.prefix_layers, e.prefix_layers);
  EXPECT_EQ(a.known_user, e.known_user);
  EXPECT_GT(a.total_us, a.slate_us);
}

TEST_P(Many, OutcomesAreThoseOfSeparateCalls) {
  for (int round = 0; round < 2; ++round) {  // cold, then with cached prefixes
    const std::vector<rexit::Outcome> outcomes = together.score_many(requests());
    std::size_t i = 0;
    std::vector<std::uint64_t> reached(3);
    for (const rexit::Request& each : requests()) {
      SCOPED_TRACE(i);
      expect_equal(outcomes[i++].value(), alone.score(each));
      for (std::size_t k = 0; k < 3; ++k) reached[k] += alone.segments()[k].candidates;
    }
    for (std::size_t k = 0; k < 3; ++k) EXPECT_EQ(together.segments()[k].candidates, reached[k]);
  }
  const auto expected = alone.counters();
  std::size_t exit = 0;
  for (const rexit_exit_counters& counters : together.counters()) {
    EXPECT_EQ(counters.reached, expected[exit].reached);
    EXPECT_EQ(counters.stopped, expected[exit++].stopped);
  }
}

// A shared pass's time is divided by tokens, so equal slates have equal shares. Separate passes never take the same time to the
// last bit.
TEST_P(Many, CandidatesOfAllRunInTheSamePasses) {
  const std::vector<rexit::Outcome> outcomes = together.score_many({request(106), request(106), request(106)});
  const bool equal = outcomes[0].value().stats.slate_us == outcomes[1].value().stats.slate_us &&
                     outcomes[1].value().stats.slate_us == outcomes[2].value().stats.slate_us;
  EXPECT_EQ(equal, shares_passes());
}

TEST_P(Many, MoreThanAPassHoldsRunInSeveral) {
  std::vector<rexit::Request> many;
  for (std::int64_t user = 0; user < 40; ++user) many.push_back(request(100 + 3 * (user % 8), {3, 13, 8, 88}));
  const std::vector<rexit::Outcome> outcomes = together.score_many(many);
  for (std::size_t i = 0; i < many.size(); ++i) {
    SCOPED_TRACE(i);
    const rexit::Scores expected = alone.score(many[i]);
    for (std::size_t n = 0; n < 4; ++n) EXPECT_NEAR(outcomes[i].value().scores[n].log_odds, expected.scores[n].log_odds, 1e-3f);
  }
}

TEST_P(Many, ASmallCacheChangesNothing) {
  rexit::Session small(bundle, 1);
  const std::vector<rexit::Outcome> outcomes = small.score_many(requests());
  std::size_t i = 0;
  for (const rexit::Request& each : requests()) {
    const rexit::Scores expected = alone.score(each);
    for (std::size_t n = 0; n < expected.scores.size(); ++n)
      EXPECT_NEAR(outcomes[i].value().scores[n].log_odds, expected.scores[n].log_odds, 1e-3f);
    ++i;
  }
}

TEST_P(Many, AFailureIsItsOwnRequestsAlone) {
  EXPECT_THROW(alone.score(request(-1).items({})), rexit::Error);
  const std::string earlier = rexit_last_error();
  std::vector<rexit::Request> mixed = requests();
  mixed.insert(mixed.begin() + 1, request(106, {8, 4}));        // no such item
  mixed.insert(mixed.begin() + 3, request(106).force_exit(3));  // no such exit
  mixed.push_back(request(106, {}));
  mixed.push_back(request(103).deadline_us(1));
  const std::vector<rexit::Outcome> outcomes = together.score_many(mixed);
  const auto expect_failed = [&](std::size_t i, rexit_status status, const char* text) {
    EXPECT_EQ(outcomes[i].status, status);
    EXPECT_NE(outcomes[i].error.find(text), std::string::npos) << outcomes[i].error;
    EXPECT_TRUE(outcomes[i].scores.scores.empty());
    try {
      alone.score(mixed[i]);
      ADD_FAILURE();
    } catch (const rexit::Error& error) {
      EXPECT_EQ(error.status(), status);
    }
    EXPECT_THROW(outcomes[i].value(), rexit::Error);
  };
  EXPECT_EQ(rexit_last_error(), earlier);
  expect_failed(1, REXIT_UNKNOWN_ITEM, "4");
  expect_failed(3, REXIT_INVALID_ARGUMENT, "force_exit is 3");
  expect_failed(9, REXIT_INVALID_ARGUMENT, "item_count is 0");
  expect_failed(10, REXIT_DEADLINE, "deadline passed");
  std::size_t failed = 0;
  for (std::size_t i = 0; i < mixed.size(); ++i) {
    SCOPED_TRACE(i);
    if (outcomes[i].status != REXIT_OK) {
      ++failed;
      continue;
    }
    EXPECT_EQ(outcomes[i].error, "");
    const rexit::Scores expected = alone.score(mixed[i]);
    for (std::size_t n = 0; n < expected.scores.size(); ++n)
      EXPECT_NEAR(outcomes[i].value().scores[n].log_odds, expected.scores[n].log_odds, 1e-3f);
  }
  EXPECT_EQ(failed, 4u);
  EXPECT_TRUE(together.score_many(std::vector<rexit::Request>()).empty());
}

TEST_P(Many, TokenRequestsShareTheirPassesToo) {
  std::vector<rexit::TokenRequest> many;
  for (const std::int64_t user : {106, 100, 103}) {
    const rexit::Prompt prompt = alone.prompt(request(user));
    const auto part = [&](std::size_t i) {
      const auto at = [&](std::size_t n) { return prompt.tokens.begin() + static_cast<std::ptrdiff_t>(prompt.offsets[n]); };
      return std::vector<std::int32_t>(at(i), at(i + 1));
    };
    rexit::TokenRequest tokens(part(0));
    for (std::size_t i = 1; i < 4; ++i) tokens.candidate(part(i));
    many.push_back(tokens);
  }
  many[1].policy(thresholds(2)).top_k(2);
  many.push_back(many[0]);
  many.push_back(rexit::TokenRequest({1}).candidate({-1}));
  many.push_back(many[0]);
  const std::vector<rexit::Outcome> outcomes = together.score_many(many);
  for (const std::size_t i : {0, 1, 2}) {
    SCOPED_TRACE(i);
    expect_equal(outcomes[i].value(), alone.score(many[i]));
  }
  EXPECT_EQ(outcomes[4].status, REXIT_INVALID_ARGUMENT);
  EXPECT_NE(outcomes[4].error.find("is -1"), std::string::npos) << outcomes[4].error;
  const bool equal = outcomes[3].value().stats.slate_us == outcomes[5].value().stats.slate_us;
  EXPECT_EQ(equal, shares_passes());
  EXPECT_TRUE(together.score_many(std::vector<rexit::TokenRequest>()).empty());
}

// Buffers of many requests are counted, and given back.
TEST_P(Many, ItsBuffersAreCounted) {
  const std::size_t before = together.memory().buffers;
  (void)together.score_many(requests());
  EXPECT_GT(together.memory().buffers, before);
  together.trim();
  EXPECT_EQ(together.memory().buffers, before);
}

INSTANTIATE_TEST_SUITE_P(Variants, Many, testing::Values("cpu-fused", "cpu-fp32"),
                         [](const auto& info) { return info.index == 0 ? "fused" : "standard"; });

}  // namespace

// The stopping rule's parts.
#include <gtest/gtest.h>

#include "bundle/policy.hpp"

using namespace rexit::core;

TEST(Policy, ThresholdsAreInclusive) {
  const ExitRule rule{1, 0, 2, 3};
  EXPECT_TRUE(rule.confident(2));
  EXPECT_TRUE(rule.confident(-3));
  EXPECT_FALSE(rule.confident(1.9f));
  EXPECT_FALSE(rule.confident(-2.9f));
}

TEST(Policy, InfinityNeverStops) {
  const ExitRule rule;
  EXPECT_FALSE(rule.confident(1e38f));
  EXPECT_FALSE(rule.confident(-1e38f));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(rule.confident(infinity));
  EXPECT_FALSE(rule.confident(-infinity));
  EXPECT_TRUE((ExitRule{1, 0, 2, infinity}.confident(infinity)));
  EXPECT_FALSE((ExitRule{1, 0, 2, infinity}.confident(-infinity)));
}

TEST(Policy, EarlierHeadsAddToC) {
  Policy policy;
  policy.exits = {{2, 0.5f}, {-1, 0.25f}, {0, -0.5f}};
  policy.earlier = {3, -2, 4};
  const float log_odds[] = {1, 2, 9};
  EXPECT_EQ(policy.calibrated(0, log_odds), 2.5f);
  EXPECT_EQ(policy.calibrated(1, log_odds), -2 + 0.25f + 3);
  EXPECT_EQ(policy.calibrated(2, log_odds), -0.5f - 2 + 8);
}

TEST(Policy, AgreementRestartsAtAChangeOfSign) {
  Agreement agreement;
  std::vector<std::uint32_t> heads;
  for (const float c : {1.0f, 2.0f, 0.0f, -1.0f, -0.5f, 3.0f}) {
    agreement.add(c);
    heads.push_back(agreement.heads);
  }
  EXPECT_EQ(heads, (std::vector<std::uint32_t>{1, 2, 3, 1, 2, 1}));
}

TEST(Policy, ThePriorShiftMultipliesTheOdds) {
  const float quarter = std::log(0.25f);
  EXPECT_FLOAT_EQ(probability(0, quarter), 0.2f);
  EXPECT_FLOAT_EQ(probability(std::log(4.0f), quarter), 0.5f);
}

TEST(Policy, ProbabilityIsTheSigmoid) {
  EXPECT_EQ(probability(0, 0), 0.5f);
  EXPECT_EQ(probability(200, 0), 1.0f);
  EXPECT_EQ(probability(-1e38f, 0), 0.0f);
}

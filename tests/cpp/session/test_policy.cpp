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

TEST(Policy, ACurveIsLinearBetweenItsPointsAndBeyond) {
  const auto c = [](float x) { return interpolate({{-1, -3}, {0, 0}, {2, 1}}, x); };
  EXPECT_EQ(c(-2), -6);
  EXPECT_EQ(c(-1), -3);
  EXPECT_EQ(c(-0.5f), -1.5f);
  EXPECT_EQ(c(0), 0);
  EXPECT_EQ(c(1), 0.5f);
  EXPECT_EQ(c(2), 1);
  EXPECT_EQ(c(6), 3);
  EXPECT_EQ(interpolate({{-1, -3}, {0, 0}}, 2), 6);
}

TEST(Policy, ACurveStaysFiniteAndNeverFalls) {
  const std::vector<rexit_curve_point> curve = {{-1e9f, -1e9f}, {0, 0}, {1e-9f, 0.5f}, {3, 0.7f}, {3.1f, 1e8f}};
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(interpolate(curve, largest), largest);
  EXPECT_EQ(interpolate(curve, std::numeric_limits<float>::infinity()), largest);
  EXPECT_EQ(interpolate({{0, 0}, {1e-9f, 0.5f}}, -largest), -largest);
  float before = -largest;
  for (const float centre : {0.0f, 1e-9f, 3.0f, 3.1f}) {
    float x = centre;
    for (int i = 0; i < 50; ++i) x = std::nextafter(x, -largest);
    for (int i = 0; i < 100; ++i, x = std::nextafter(x, largest)) {
      const float c = interpolate(curve, x);
      EXPECT_GE(c, before) << "at " << x;
      before = c;
    }
  }
}

TEST(Policy, CurvesFollowTheMaps) {
  Policy policy;
  policy.exits = {{2, 0.5f}, {1, 0}};
  policy.exits[0].curve = {{0, 0}, {1, 3}};
  policy.exits[1].curve = {{0, 1}, {5, 2}, {6, 7}};
  EXPECT_EQ(policy.exits[0].calibrated(1), 7.5f);
  EXPECT_EQ(policy.exits[1].calibrated(5.5f), 4.5f);
  policy.earlier = {4};
  const float log_odds[] = {1, 1.5f};
  EXPECT_EQ(policy.calibrated(1, log_odds), 4.5f);
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

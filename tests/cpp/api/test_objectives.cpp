// Several objectives through the C ABI and rexit.hpp. tests/damage/policies.py has the bundles.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

const std::vector<rexit::Id> items = {std::int64_t{-7}, std::int64_t{3}, std::int64_t{8}, std::int64_t{18}};
const rexit::Id user = std::int64_t{106};

rexit::Request request() {
  rexit::Request request(user);
  request.items(items);
  return request;
}

rexit::Bundle open(const std::string& name) { return rexit::Bundle(bundles() + "/" + name + "/bundle"); }

rexit_status status_of(const rexit::Bundle& bundle, rexit::Request request) {
  try {
    rexit::Session(bundle).score(request);
    return REXIT_OK;
  } catch (const rexit::Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.status();
  }
}

TEST(Objectives, HaveNamesAndWeights) {
  const rexit::Bundle plain = open("sound"), several = open("sound_with_objectives"), weighed = open("policy_with_a_utility");
  EXPECT_EQ(plain.info().objectives, 1u);
  EXPECT_STREQ(plain.objective(0).name, "");
  EXPECT_EQ(plain.objective(0).weight, 1);
  EXPECT_EQ(plain.exit(1).objectives, nullptr);
  EXPECT_EQ(several.info().objectives, 2u);
  EXPECT_STREQ(several.objective(1).name, "like");
  EXPECT_EQ(several.objective(0).weight, 1);
  EXPECT_EQ(several.exit(0).objectives[1].a, 1);
  EXPECT_STREQ(weighed.objective(0).name, "click");
  EXPECT_EQ(weighed.objective(0).weight, -1);
  EXPECT_EQ(weighed.objective(1).weight, 2);
  EXPECT_EQ(weighed.exit(1).objectives[1].a, 0.5f);
  EXPECT_EQ(weighed.exit(1).objectives[1].b, -1);
  EXPECT_THROW(several.objective(2), rexit::Error);
}

TEST(Objectives, EachHasItsLogOddsAtEveryExit) {
  rexit::Session session(open("sound_with_objectives"));
  const std::size_t exits = session.bundle().info().exits;
  const std::vector<float> log_odds = session.trace(request()).log_odds;
  ASSERT_EQ(log_odds.size(), items.size() * exits * 2);
  // The first objective's head is that of the same bundle with a single one.
  const std::vector<float> single = rexit::Session(open("sound")).trace(request()).log_odds;
  for (std::size_t i = 0; i < single.size(); ++i) EXPECT_NEAR(log_odds[2 * i], single[i], 1e-3);
}

TEST(Objectives, TheirProbabilitiesFollowTheScores) {
  rexit::Session session(open("policy_with_a_utility"));
  const rexit::Scores every = session.score(request().force_exit(1)), best = session.score(request().force_exit(1).top_k(2));
  const std::vector<float> log_odds = session.trace(request()).log_odds;
  ASSERT_EQ(every.probabilities.size(), items.size() * 2);
  ASSERT_EQ(best.probabilities.size(), 4u);
  const auto sigmoid = [](double c) { return 1 / (1 + std::exp(-c)); };
  for (std::size_t i = 0; i < items.size(); ++i) {
    const float* z = log_odds.data() + (i * 3 + 1) * 2;
    EXPECT_NEAR(every.probabilities[2 * i], sigmoid(1.5 * z[0] + 0.25), 1e-4);
    EXPECT_NEAR(every.probabilities[2 * i + 1], sigmoid(0.5 * z[1] - 1), 1e-4);
    const double u = (2 * every.probabilities[2 * i + 1] - every.probabilities[2 * i] + 1) / 3;
    EXPECT_NEAR(every.scores[i].probability, u, 1e-4);
    EXPECT_NEAR(every.scores[i].log_odds, std::log(u / (1 - u)), 1e-2);
  }
  for (std::size_t rank = 0; rank < 2; ++rank)
    for (std::size_t k = 0; k < 2; ++k)
      EXPECT_EQ(best.probabilities[2 * rank + k], every.probabilities[2 * best.scores[rank].item + k]);
}

// Calls the C ABI with room for `count` probabilities.
rexit_status score_into(const rexit::Bundle& bundle, std::vector<float>& probabilities, std::size_t count) {
  const rexit::Session session(bundle);
  return request().view([&](rexit_request view) {
    std::vector<rexit_score> scores(items.size());
    view.probabilities = probabilities.data();
    view.probability_count = count;
    const rexit_status status = rexit_session_score(session.get(), &view, scores.data(), nullptr);
    if (status == REXIT_OK && bundle.info().objectives == 1) {
      for (std::size_t i = 0; i < items.size(); ++i) EXPECT_EQ(probabilities[i], scores[i].probability);
    }
    return status;
  });
}

TEST(Objectives, AnArrayThatIsTooShortIsRefused) {
  std::vector<float> probabilities(8, -1);
  EXPECT_EQ(score_into(open("sound_with_objectives"), probabilities, 7), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(rexit_last_error()), "request.probability_count is 7, expected 4 scores x 2 objectives");
  EXPECT_EQ(probabilities, std::vector<float>(8, -1));
  EXPECT_EQ(score_into(open("sound_with_objectives"), probabilities, 8), REXIT_OK);
  for (const float p : probabilities) EXPECT_TRUE(p > 0 && p < 1);
}

TEST(Objectives, ASingleOneHasTheScoresProbability) {
  std::vector<float> probabilities(4, -1);
  EXPECT_EQ(score_into(open("sound"), probabilities, 4), REXIT_OK);
  EXPECT_EQ(score_into(open("sound"), probabilities, 3), REXIT_INVALID_ARGUMENT);
}

TEST(Objectives, NamesAndMapsOutliveTheCall) {
  const rexit::Bundle bundle = open("policy_with_a_utility");
  const rexit_objective_info click = bundle.objective(0);
  const rexit_exit_info exit = bundle.exit(2);
  rexit::Session(bundle).score(request());
  EXPECT_STREQ(click.name, "click");
  EXPECT_EQ(exit.objectives[0].a, 1.5f);
}

}  // namespace

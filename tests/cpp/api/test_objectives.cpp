// Several objectives through the C ABI and rexit.hpp. tests/damage/policies.py has the bundles.
#include <gtest/gtest.h>

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

}  // namespace

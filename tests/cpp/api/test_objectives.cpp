// Several objectives through the C ABI and rexit.hpp; what they answer: tests/runtime/test_objectives.py.
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
  EXPECT_THROW(open("sound_with_objectives").objective(2), rexit::Error);
}

TEST(Objectives, ASingleOneHasTheScoresProbability) {
  std::vector<float> probabilities(4, -1);
  EXPECT_EQ(score_into(open("sound"), probabilities, 4), REXIT_OK);
  EXPECT_EQ(score_into(open("sound"), probabilities, 3), REXIT_INVALID_ARGUMENT);
}

}  // namespace

// Several objectives: the utility's log-odds as Python has them (tests/builders/bundles/utilities.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "session/host_backend.hpp"
#include "session/slate/slate.hpp"
#include "session/slate/utility.hpp"

using namespace rexit::core;

namespace {

float of(const std::vector<float>& weights, const std::vector<float>& log_odds) {
  Utility utility;
  utility.set_weights(weights);
  const std::vector<rexit_platt> maps(weights.size(), {1, 0});
  std::vector<float> p(weights.size());
  return utility.log_odds(maps.data(), log_odds.data(), p.data());
}

TEST(Utility, StaysFiniteAndNeverFallsWhereItSaturates) {
  const float largest = std::numeric_limits<float>::max();
  for (const std::vector<float>& weights : {std::vector<float>{1, 1}, {1e9f, 1e-30f}, {1e-45f, 1e9f}, {1, -1}}) {
    const float sign = weights[1] < 0 ? -1.0f : 1.0f;
    float before = -largest;
    for (const float z : {-largest, -1e6f, -700.0f, -90.0f, -1.0f, 0.0f, 1.0f, 90.0f, 700.0f, 1e6f, largest}) {
      const float x = of(weights, {z, sign * z});
      EXPECT_TRUE(std::isfinite(x)) << z;
      EXPECT_GE(x, before) << z;
      before = x;
    }
  }
}

TEST(Utility, IsPythonsToTheBit) {
  std::ifstream file(std::getenv("REXIT_TEST_UTILITIES"), std::ios::binary);
  const auto integer = [&file] {
    std::int32_t value = 0;
    file.read(reinterpret_cast<char*>(&value), sizeof value);
    return static_cast<std::size_t>(value);
  };
  const auto reals = [&file](std::size_t count) {
    std::vector<float> values(count);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(float)));
    return values;
  };
  const std::size_t cases = integer();
  ASSERT_GT(cases, 100u);
  for (std::size_t n = 0; n < cases; ++n) {
    const std::size_t objectives = integer(), candidates = integer();
    Utility utility;
    utility.set_weights(reals(objectives));
    std::vector<rexit_platt> maps;
    for (std::size_t k = 0; k < objectives; ++k) {
      const std::vector<float> map = reals(2);
      maps.push_back({map[0], map[1]});
    }
    const std::vector<float> log_odds = reals(candidates * objectives), expected = reals(candidates),
                             expected_probabilities = reals(candidates * objectives);
    ASSERT_TRUE(file.good());
    std::vector<float> x, probabilities(candidates * objectives);
    for (std::size_t i = 0; i < candidates; ++i)
      x.push_back(utility.log_odds(maps.data(), log_odds.data() + i * objectives, probabilities.data() + i * objectives));
    ASSERT_EQ(x, expected) << "case " << n;
    ASSERT_EQ(probabilities, expected_probabilities) << "case " << n;
  }
}

// Log-odds of two objectives are a candidate's number and its negative; a pass takes 0.6 s.
class Slow final : public HostBackend {
 public:
  void run(std::size_t, const Pass& pass) const override {
    for (std::size_t n = 0; pass.logits != nullptr && n < pass.rows; ++n) {
      const auto number = static_cast<float>(n + 1);
      const float logits[] = {0, number, number, 0};
      std::copy_n(logits, 4, pass.logits + 4 * n);
    }
    if (pass.logits != nullptr) std::this_thread::sleep_for(std::chrono::milliseconds(600));
  }
};

TEST(Utility, ProbabilitiesWithoutAnAnswerAreNaN) {
  const Bundle bundle(open_source(bundles() + "/sound_with_objectives/bundle"), nullptr);  // passes take 24 tokens
  const Slow backend;
  VectorRows vectors(bundle);
  PrefixCache prefix(bundle, backend, vectors, 1u << 20);
  Slate slate(bundle, backend, vectors);
  Prompt prompt;
  prompt.tokens.resize(3 + 30);
  std::iota(prompt.tokens.begin(), prompt.tokens.end(), 1);  // no two candidates are equal
  prompt.offsets = {0, 3};
  for (std::size_t i = 0; i < 30; ++i) prompt.offsets.push_back(4 + i);
  prefix.set_current(prompt.tokens.data(), 3);
  SlateStats stats;
  const std::vector<Answer>& answers =
      run_slate(slate, prompt, prefix, {&bundle.policy(), std::nullopt}, Deadline(Clock::now(), 500'000), stats);
  for (std::size_t i = 0; i < 30; ++i)
    for (std::size_t k = 0; k < 2; ++k) {
      const float p = slate.probabilities()[2 * i + k], c = static_cast<float>(i + 1) * (k == 0 ? 1 : -1);
      ASSERT_EQ(answers[i].has_exit(), i < 24);
      if (i < 24)
        EXPECT_FLOAT_EQ(p, 1 / (1 + std::exp(-c)));
      else
        EXPECT_TRUE(std::isnan(p));
    }
}

}  // namespace

// Golden samples, in float32 and int8: prompts and log-odds are those of the machine that wrote the bundle
// (tests/builders/bundles/recorded.py), on any machine. tests/wheel/answers.py compares the exits of policies, too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>

#include "files/safetensors.hpp"
#include "rexit/rexit.hpp"

using rexit::core::Array;
using rexit::core::File;
using rexit::core::Safetensors;

TEST(Golden, IsAsRecorded) {
  const char* environment = std::getenv("REXIT_TEST_GOLDEN");
  const std::string folder = environment != nullptr ? environment : "golden";
  for (const rexit_variant_info& variant : rexit::variants(folder + "/bundle")) {
    const std::string name = variant.name;
    SCOPED_TRACE(name);
    const Safetensors recorded(File(folder + "/" + name + ".recorded.safetensors"));
    rexit::Session session(rexit::Bundle(folder + "/bundle", rexit::BundleOptions{name, "", 0}));
    const Array<float> log_odds = recorded.array<float>("log_odds", {std::nullopt, session.bundle().info().exits});
    float worst = 0;
    rexit::GoldenCheck check;
    std::size_t slate = 0, compared = 0;
    do {
      check = session.check_golden(slate);
      EXPECT_EQ(check.prompt, "");
      EXPECT_EQ(check.decision, "");
      if (name == "cpu-fp32") EXPECT_EQ(check.log_odds, "") << "NumPy's, in float64 and token by token";
      ASSERT_LE(compared + check.trace.size(), log_odds.size);
      for (const float value : check.trace) worst = std::max(worst, std::fabs(value - log_odds[compared++]));
    } while (++slate < check.slates);
    EXPECT_EQ(compared, log_odds.size);
    std::cout << name << ": largest difference of log-odds " << worst << '\n';
    EXPECT_LE(worst, 1e-3f) << "of up to 28: float32 sums in another order differ by 1e-4 at the last exit";
  }
}

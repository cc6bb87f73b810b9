// Golden samples, full-precision and quantized: the prompts, the log-odds and the exits are those of the machine that wrote the
// bundle (tests/builders/bundles/recorded.py), on any machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "files/safetensors.hpp"
#include "rexit/rexit.hpp"

namespace {

using rexit::core::Array;
using rexit::core::File;
using rexit::core::Safetensors;

std::string folder() {
  const char* folder = std::getenv("REXIT_TEST_GOLDEN");
  return folder != nullptr ? folder : "golden";
}

// Of log-odds that reach 28: float32 sums in another order differ by 1e-4 at the last exit.
constexpr float tolerance = 1e-3f;

class Golden : public testing::TestWithParam<const char*> {
 protected:
  const std::string variant = GetParam();
  const Safetensors users{File(folder() + "/bundle/catalog/users.safetensors")},
      items{File(folder() + "/bundle/catalog/items.safetensors")};
  const Safetensors golden{File(folder() + "/bundle/variants/" + variant + "/golden.safetensors")};
  const Safetensors recorded{File(folder() + "/" + variant + ".recorded.safetensors")};
  rexit::Bundle bundle{folder() + "/bundle", rexit::BundleOptions{variant, "", 0}};
  rexit::Session session{bundle};

  const Array<std::int64_t> offsets = golden.array<std::int64_t>("slate_offsets", {std::nullopt});

  std::size_t slates() const { return offsets.size - 1; }

  rexit::Request request(std::size_t slate) const {
    const auto row = [](const Safetensors& table, std::int32_t index) {
      return table.array<std::int64_t>("ids", {std::nullopt})[static_cast<std::size_t>(index)];
    };
    const Array<std::int32_t> rows = golden.array<std::int32_t>("item", {std::nullopt});
    std::vector<rexit::Id> ids;
    for (auto i = offsets[slate]; i < offsets[slate + 1]; ++i) ids.push_back(row(items, rows[static_cast<std::size_t>(i)]));
    rexit::Request slate_request(row(users, golden.array<std::int32_t>("user", {std::nullopt})[slate]));
    slate_request.items(std::move(ids)).as_of(golden.array<std::int64_t>("as_of", {std::nullopt})[slate]);
    return slate_request;
  }
};

TEST_P(Golden, PromptsAreTheSame) {
  const Array<std::int64_t> prefixes = golden.array<std::int64_t>("prefix_offsets", {std::nullopt});
  const Array<std::int64_t> candidates = golden.array<std::int64_t>("candidate_offsets", {std::nullopt});
  const std::int32_t* prefix = golden.array<std::int32_t>("prefix_tokens", {std::nullopt}).data;
  const std::int32_t* candidate = golden.array<std::int32_t>("candidate_tokens", {std::nullopt}).data;
  for (std::size_t s = 0; s < slates(); ++s) {
    std::vector<std::int32_t> expected(prefix + prefixes[s], prefix + prefixes[s + 1]);
    expected.insert(expected.end(), candidate + candidates[static_cast<std::size_t>(offsets[s])],
                    candidate + candidates[static_cast<std::size_t>(offsets[s + 1])]);
    EXPECT_EQ(session.prompt(request(s)).tokens, expected);
  }
}

TEST_P(Golden, LogOddsAndExitsAreTheSame) {
  const std::size_t exits = bundle.info().exits;
  const Array<float> log_odds = recorded.array<float>("log_odds", {std::nullopt, exits});
  const Array<float> answered = recorded.array<float>("score_log_odds", {std::nullopt});
  const Array<std::int32_t> exit = recorded.array<std::int32_t>("exit", {std::nullopt});
  std::vector<float> worst(exits + 1, 0);
  std::size_t candidate = 0;
  for (std::size_t s = 0; s < slates(); ++s) {
    session.clear_cache();  // as they were recorded
    const std::vector<float> trace = session.trace(request(s)).log_odds;
    for (std::size_t i = 0; i < trace.size(); ++i)
      worst[i % exits] = std::max(worst[i % exits], std::fabs(trace[i] - log_odds[candidate * exits + i]));
    session.clear_cache();
    for (const rexit_score& score : session.score(request(s)).scores) {
      EXPECT_EQ(static_cast<std::int32_t>(score.exit), exit[candidate]) << "slate " << s << ", candidate " << score.item;
      worst[exits] = std::max(worst[exits], std::fabs(score.log_odds - answered[candidate]));
      ++candidate;
    }
  }
  ASSERT_EQ(candidate, exit.size);
  std::cout << variant << ": " << candidate
            << " candidates, largest difference of log-odds by exit, then at the exits of the policy:";
  for (const float difference : worst) {
    std::cout << ' ' << difference;
    EXPECT_LE(difference, tolerance);
  }
  std::cout << '\n';
}

// The float32 log-odds are also NumPy's, in float64 and token by token.
TEST(GoldenReference, Float32IsNumPys) {
  const Safetensors golden(File(folder() + "/bundle/variants/cpu-fp32/golden.safetensors"));
  const Safetensors recorded(File(folder() + "/cpu-fp32.recorded.safetensors"));
  const Array<float> a = golden.array<float>("log_odds", {std::nullopt, 3}),
                     b = recorded.array<float>("log_odds", {std::nullopt, 3});
  ASSERT_EQ(a.size, b.size);
  for (std::size_t i = 0; i < a.size; ++i) EXPECT_NEAR(a[i], b[i], tolerance);
}

INSTANTIATE_TEST_SUITE_P(Variants, Golden, testing::Values("cpu-fp32", "cpu-int8", "cpu-int8-cache"), [](const auto& info) {
  std::string name = std::string(info.param).substr(4);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace

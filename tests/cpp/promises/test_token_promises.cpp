// What rexit.h promises of requests by token ids, on a bundle with a catalog and on one without.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "promises/promises.hpp"
#include "rexit/rexit.hpp"

namespace {

// The tokens of the request of `Promises`.
class TokenPromises : public Promises {
 protected:
  TokenPromises() {
    rexit_prompt prompt{};
    EXPECT_EQ(rexit_session_prompt(session, request.data(), request.size(), &prompt), REXIT_OK);
    own.prefix.assign(prompt.tokens, prompt.tokens + prompt.ends[0]);
    for (std::size_t i = 0; i < prompt.candidate_count; ++i)
      own.candidates.emplace_back(prompt.tokens + prompt.ends[i], prompt.tokens + prompt.ends[i + 1]);
  }

  std::vector<float> trace_own() { return trace(rexit::Request(own).json()); }
  rexit_status refused(const std::string& expected) {
    const rexit_status status = score(rexit::Request(own).json());
    EXPECT_NE(std::string(rexit_last_error()).find(expected), std::string::npos) << rexit_last_error();
    return status;
  }

  rexit::Tokens own;
};

TEST_F(TokenPromises, WhatIsNoTokenIsRefused) {
  const rexit_bundle_info info = rexit::Bundle(sound_bundle()).info();
  for (std::int32_t token : {-1, static_cast<std::int32_t>(info.vocabulary), INT32_MAX}) {
    const std::string shown = std::to_string(token);
    std::swap(own.prefix[1], token);
    EXPECT_EQ(refused("prefix[1] is " + shown), REXIT_INVALID_ARGUMENT);
    std::swap(own.prefix[1], token);
    std::swap(own.candidates[1][0], token);
    EXPECT_EQ(refused("candidates[1][0] is " + shown), REXIT_INVALID_ARGUMENT);
    std::swap(own.candidates[1][0], token);
  }
  own.candidates[1].clear();
  EXPECT_EQ(refused("candidates[1] has no tokens"), REXIT_INVALID_ARGUMENT);
}

// Lengths are checked before a token is.
TEST_F(TokenPromises, LengthsBeyondTheModelAreRefused) {
  const rexit::Tokens before = own;
  own.prefix.assign(100'000, -1);
  EXPECT_EQ(refused("no room for a candidate"), REXIT_TOO_LONG);
  own = before;
  own.candidates[0].assign(100'000, -1);
  EXPECT_EQ(refused("candidates[0] has 100000 tokens"), REXIT_TOO_LONG);
}

TEST_F(TokenPromises, TheyAnswerAsTheRequestThatTheyWereMadeFrom) { expect_near(trace_own(), trace(request)); }

TEST_F(TokenPromises, APrefixMayBeEmpty) {
  own = {{}, {{3, 4, 5, 6}}};
  const std::vector<float> alone = trace_own();
  own = {{3, 4, 5}, {{6}}};
  const std::vector<float> behind = trace_own();
  for (std::size_t k = 0; k < 3; ++k) EXPECT_NEAR(alone[k], behind[k], 1e-4);
}

// What it answers: tests/runtime/test_request.py.
TEST(TokenBundle, HasNoIds) {
  const rexit::Bundle bundle(bundles() + "/no_catalog/bundle"), sound(sound_bundle());
  const rexit_bundle_info info = bundle.info();
  EXPECT_EQ(info.has_catalog, 0);
  EXPECT_EQ(info.users + info.items, 0u);
  EXPECT_EQ(info.vocabulary, sound.info().vocabulary);
  EXPECT_EQ(sound.info().has_catalog, 1);
  const std::vector<rexit_variant_info> variants = rexit::variants(bundles() + "/no_catalog/bundle");
  EXPECT_EQ(variants.front().catalog_bytes, 0u);
  EXPECT_GT(variants.front().session_bytes, 0u);
}

}  // namespace

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
    std::size_t count = 0, offsets[5];
    EXPECT_EQ(rexit_session_prompt(session, &request, nullptr, 0, nullptr, &count), REXIT_OK);
    tokens.resize(count);
    EXPECT_EQ(rexit_session_prompt(session, &request, tokens.data(), count, offsets, &count), REXIT_OK);
    prefix_count = offsets[1];
    for (std::size_t i = 0; i < 3; ++i) counts.push_back(offsets[2 + i] - offsets[1 + i]);
    of_tokens.score_size = sizeof(rexit_score);
    of_tokens.tokens = &own;
    own.prefix = tokens.data();
    own.prefix_count = prefix_count;
    own.candidates = tokens.data() + prefix_count;
    own.candidate_counts = counts.data();
    own.candidate_count = counts.size();
  }

  rexit_status refused(const char* expected) {
    rexit_score scores[3];
    float log_odds[9];
    std::memset(scores, 0x5a, sizeof scores);
    const rexit_status status = rexit_session_score(session, &of_tokens, scores, nullptr);
    EXPECT_NE(std::string(rexit_last_error()).find(expected), std::string::npos) << rexit_last_error();
    EXPECT_EQ(scores[0].item, 0x5a5a5a5au);
    EXPECT_EQ(rexit_session_trace(session, &of_tokens, log_odds, nullptr), status);
    return status;
  }

  std::vector<std::int32_t> tokens;
  std::size_t prefix_count = 0;
  std::vector<std::size_t> counts;
  rexit_tokens own = sized<rexit_tokens>();
  rexit_request of_tokens = sized<rexit_request>();
};

TEST_F(TokenPromises, WhatIsNoTokenIsRefused) {
  const rexit_bundle_info info = rexit::Bundle(sound_bundle()).info();
  for (const std::int32_t token : {-1, static_cast<std::int32_t>(info.vocabulary), INT32_MAX}) {
    std::vector<std::int32_t> edited = tokens;
    own.prefix = edited.data();
    own.candidates = edited.data() + prefix_count;
    edited[1] = token;
    EXPECT_EQ(refused(("prefix[1] is " + std::to_string(token)).c_str()), REXIT_INVALID_ARGUMENT);
    edited[1] = tokens[1];
    edited[prefix_count + counts[0]] = token;
    EXPECT_EQ(refused(("candidates[1][0] is " + std::to_string(token)).c_str()), REXIT_INVALID_ARGUMENT);
  }
}

TEST_F(TokenPromises, PartsWithoutTokensAndNullPointersAreRefused) {
  counts[1] = 0;
  EXPECT_EQ(refused("candidates[1] has no tokens"), REXIT_INVALID_ARGUMENT);
  counts[1] = 1;
  own.candidate_count = 0;
  EXPECT_EQ(refused("candidates is empty"), REXIT_INVALID_ARGUMENT);
  own.candidate_count = SIZE_MAX;
  EXPECT_EQ(refused("candidates has"), REXIT_INVALID_ARGUMENT);
  own.candidate_count = 1;
  own.prefix = nullptr;
  EXPECT_EQ(refused("request.tokens.prefix is NULL"), REXIT_INVALID_ARGUMENT);
  own.prefix = tokens.data();
  own.candidates = nullptr;
  EXPECT_EQ(refused("request.tokens.candidates is NULL"), REXIT_INVALID_ARGUMENT);
  own.candidates = tokens.data();
  own.candidate_counts = nullptr;
  EXPECT_EQ(refused("request.tokens.candidate_counts is NULL"), REXIT_INVALID_ARGUMENT);
}

// Lengths are checked before a token is read.
TEST_F(TokenPromises, LengthsBeyondTheModelAreRefused) {
  own.prefix_count = SIZE_MAX;
  EXPECT_EQ(refused("no room for a candidate"), REXIT_TOO_LONG);
  own.prefix_count = prefix_count;
  counts[0] = SIZE_MAX;
  EXPECT_EQ(refused("candidates[0] has"), REXIT_TOO_LONG);
}

TEST_F(TokenPromises, IdsBesideTokensAreRefused) {
  const rexit_input input{"device", "tv", nullptr, 0, 0};
  of_tokens.user = &user;
  EXPECT_EQ(refused("user is set, but the request is token ids"), REXIT_INVALID_ARGUMENT);
  of_tokens.user = nullptr;
  of_tokens.items = items;
  of_tokens.item_count = 1;
  EXPECT_EQ(refused("items is set"), REXIT_INVALID_ARGUMENT);
  of_tokens.item_count = 0;
  of_tokens.recent_items = items;
  of_tokens.recent_count = 1;
  EXPECT_EQ(refused("recent is set"), REXIT_INVALID_ARGUMENT);
  of_tokens.recent_count = 0;
  of_tokens.has_as_of = 1;
  EXPECT_EQ(refused("as_of is set"), REXIT_INVALID_ARGUMENT);
  of_tokens.has_as_of = 0;
  of_tokens.inputs = &input;
  of_tokens.input_count = 1;
  EXPECT_EQ(refused("inputs is set"), REXIT_INVALID_ARGUMENT);
}

TEST_F(TokenPromises, APrefixMayBeEmpty) {
  const std::int32_t whole[] = {3, 4, 5, 6};
  const std::size_t four = 4, one = 1;
  float alone[3], behind[3];
  own.prefix = nullptr;
  own.prefix_count = 0;
  own.candidates = whole;
  own.candidate_counts = &four;
  own.candidate_count = 1;
  ASSERT_EQ(rexit_session_trace(session, &of_tokens, alone, nullptr), REXIT_OK) << rexit_last_error();
  own.prefix = whole;
  own.prefix_count = 3;
  own.candidates = whole + 3;
  own.candidate_counts = &one;
  ASSERT_EQ(rexit_session_trace(session, &of_tokens, behind, nullptr), REXIT_OK) << rexit_last_error();
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

TEST(Tokens, CountsAddUpToTheTokens) {
  using rexit::Request;
  using rexit::Tokens;
  EXPECT_THROW(Request(Tokens{{1}, {1, 2, 3}, {1, 1}}), std::invalid_argument);
  EXPECT_THROW(Request(Tokens{{1}, {1, 2, 3}, {1, SIZE_MAX}}), std::invalid_argument);
  EXPECT_EQ(Request(Tokens{{1}, {1, 2, 3}, {1, 2}}).candidates(), 2u);
}

}  // namespace

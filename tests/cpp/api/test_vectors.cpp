// Vectors in prompts over the real backend: no way of running a slate changes its scores. tests/runtime/test_vectors.py compares
// them with a reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

constexpr std::size_t exits = 3;
constexpr std::int32_t vocabulary = 64, users_id = 64 + 3 * 20;

std::vector<rexit::Id> items(std::size_t count = 20) {
  std::vector<rexit::Id> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int64_t>(i) * 5 - 7);
  return ids;
}

class VectorsTest : public testing::Test {
 protected:
  std::string path = bundles() + "/sound_with_vectors/bundle";
  rexit::Bundle bundle{path};

  static void expect_same(const std::vector<float>& log_odds, const std::vector<float>& expected) {
    ASSERT_EQ(log_odds.size(), expected.size());
    for (std::size_t i = 0; i < log_odds.size(); ++i) EXPECT_NEAR(log_odds[i], expected[i], 1e-3) << i;
  }
};

TEST_F(VectorsTest, PromptsNameThem) {
  rexit::Session session(bundle);
  const rexit::Prompt prompt = session.prompt(rexit::Request(std::int64_t{106}).items(items(2)));
  const auto at = [&](std::size_t i) { return prompt.tokens.begin() + static_cast<std::ptrdiff_t>(prompt.offsets[i]); };
  EXPECT_EQ(std::count(at(0), at(1), users_id), 1);
  EXPECT_EQ(std::count(at(1), at(3), users_id), 0);
  EXPECT_EQ(at(2)[0], vocabulary + 20 + 2);  // item 1's first vector of the second table
  EXPECT_EQ(at(2)[1], vocabulary + 20 + 3);
}

TEST_F(VectorsTest, AloneInASlateColdAndCachedScoreTheSame) {
  rexit::Session session(bundle);
  for (const std::int64_t user : {106, 112, 133, 7777}) {
    const std::vector<float> slate = session.trace(rexit::Request(user).items(items())).log_odds;
    EXPECT_EQ(session.trace(rexit::Request(user).items(items())).log_odds, slate);  // cached
    for (std::size_t i = 0; i < 20; ++i) {
      session.clear_cache();
      const std::vector<float> alone = session.trace(rexit::Request(user).items({items()[i]})).log_odds;
      expect_same(alone, {slate.begin() + static_cast<std::ptrdiff_t>(exits * i),
                          slate.begin() + static_cast<std::ptrdiff_t>(exits * (i + 1))});
    }
  }
}

class ReuseTest : public VectorsTest, public testing::WithParamInterface<const char*> {};

// Every request in a session that has answered all others, and in its own session: reuse changes nothing.
TEST_P(ReuseTest, ReuseChangesNoScores) {
  const rexit::Bundle reused(bundles() + "/" + GetParam() + "/bundle");
  rexit::Session session(reused);
  std::size_t shared = 0;
  for (int round = 0; round < 2; ++round)
    for (std::int64_t user = 100; user <= 136; user += 3)
      for (const std::int64_t as_of : {20, 35, 60})
        for (const bool liked : {true, false}) {
          const std::vector<rexit::Id> recent = items(static_cast<std::size_t>(user % 4));
          const auto request = [&] {
            return rexit::Request(user)
                .as_of(as_of)
                .recent(recent, std::vector<std::uint8_t>(recent.size(), liked))
                .items(items(3));
          };
          const rexit::Trace shared_trace = session.trace(request());
          rexit::Session own(reused);
          expect_same(shared_trace.log_odds, own.trace(request()).log_odds);
          if (shared_trace.stats.prefix_tokens_reused != 0 &&
              shared_trace.stats.prefix_tokens_reused != shared_trace.stats.prefix_tokens)
            ++shared;
        }
  EXPECT_GT(shared, 0u);
}

INSTANTIATE_TEST_SUITE_P(Bundles, ReuseTest, testing::Values("sound_with_vectors", "prefixes_that_differ_in_the_user_alone"));

TEST_F(VectorsTest, TheEstimateIsTheMemoryOfAWarmSession) {
  rexit::Session session(bundle);
  session.warm_up();
  const rexit_memory memory = session.memory();
  const auto memory_bytes = static_cast<double>(memory.prefixes + memory.buffers);
  const rexit_variant_info info = rexit::variants(path)[0];
  EXPECT_LT(memory_bytes, 1.25 * static_cast<double>(info.session_bytes));
  EXPECT_GT(memory_bytes, 0.8 * static_cast<double>(info.session_bytes));
  std::size_t tables = std::filesystem::file_size(path + "/vectors.safetensors");
  for (const char* name : {"users", "items", "pieces"})
    tables += std::filesystem::file_size(path + "/catalog/" + name + ".safetensors");
  EXPECT_EQ(info.catalog_bytes, tables);
}

}  // namespace

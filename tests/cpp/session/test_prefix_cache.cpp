// Which prefixes are cached, recomputed and copied, over a backend whose keys identify their tokens.
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "manifests.hpp"
#include "session/host_backend.hpp"
#include "session/prefix_cache.hpp"
#include "tar.hpp"

using namespace rexit::core;

namespace {

// Token t at position p has, in each layer and head, keys 1000 * token + p and values -that; its hidden state behind segment k is
// token + k. So a key in the wrong place, or copied from the wrong prefix, is noticed.
class Labelled final : public HostBackend {
 public:
  explicit Labelled(const Bundle& bundle) : bundle_(bundle) {}

  void run(std::size_t segment, const Pass& pass) const override {
    const Model& model = bundle_.model();
    if (fails) fail(REXIT_BACKEND_FAILED, "injected failure");
    passes.push_back({segment, pass.prefix, pass.tokens});
    for (std::size_t t = 0; t < pass.tokens; ++t) {
      const auto* hidden = static_cast<const float*>(pass.hidden_in);
      const float token =
          segment == 0 ? static_cast<float>(pass.token_ids[t]) : hidden[t * model.hidden_size] - static_cast<float>(segment - 1);
      EXPECT_EQ(pass.positions[t], static_cast<std::int64_t>(pass.prefix + t));
      if (pass.hidden_out != nullptr)
        std::fill_n(static_cast<float*>(pass.hidden_out) + t * model.hidden_size, model.hidden_size,
                    token + static_cast<float>(segment));
      for (std::size_t i = 0; i < bundle_.variant().segments[segment].layers(); ++i)
        for (std::size_t h = 0; h < model.kv_heads; ++h) {
          const std::size_t at = (h * pass.tokens + t) * model.head_dim;
          const float label = 1000 * token + static_cast<float>(pass.positions[t]);
          std::fill_n(static_cast<float*>(pass.new_keys[i]) + at, model.head_dim, label);
          std::fill_n(static_cast<float*>(pass.new_values[i]) + at, model.head_dim, -label);
        }
    }
    for (std::size_t i = 0; pass.prefix != 0 && i < bundle_.variant().segments[segment].layers(); ++i)
      for (std::size_t p = 0; p < pass.prefix; ++p) {
        const auto* keys = static_cast<const float*>(pass.past_keys[i]);
        EXPECT_EQ(static_cast<std::size_t>(keys[p * model.head_dim]) % 1000, p);
      }
  }
  std::size_t tensor_alignment() const noexcept override { return alignment; }
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                 std::size_t count) const override {
    row_copies.push_back(count);
    Backend::copy_rows(to, to_pitch, from, from_pitch, bytes, count);
  }

  std::size_t alignment = 1;
  bool fails = false;
  mutable std::vector<std::size_t> row_copies;  // their numbers of rows

  struct Seen {
    std::size_t segment, prefix, tokens;
    bool operator==(const Seen& other) const {
      return segment == other.segment && prefix == other.prefix && tokens == other.tokens;
    }
  };
  mutable std::vector<Seen> passes;

 private:
  const Bundle& bundle_;
};

using Passes = std::vector<Labelled::Seen>;
using Tokens = std::vector<std::int32_t>;

class PrefixCacheTest : public testing::Test {
 protected:
  Bundle bundle{sound_bundle(), nullptr};  // 3 segments of 1, 1 and 2 layers
  Labelled backend{bundle};

  // Bytes of a prefix at full depth.
  std::size_t bytes(std::size_t tokens = 8) const {
    const Model& model = bundle.model();
    return tokens * (4 * model.hidden_size + 8 + 2 * 4 * model.layers * model.kv_heads * model.head_dim);
  }

  std::size_t use(PrefixCache& cache, const Tokens& tokens, std::size_t depth) {
    const std::size_t reused = cache.set_current(tokens.data(), tokens.size());
    while (depth != 0 && !cache.ready(depth - 1)) cache.deepen();
    for (std::size_t k = 0; k < depth; ++k) expect_labels(cache, tokens, k);
    return reused;
  }

  void expect_labels(const PrefixCache& cache, const Tokens& tokens, std::size_t segment) const {
    const Model& model = bundle.model();
    for (std::size_t i = 0; i < bundle.variant().segments[segment].layers(); ++i)
      for (std::size_t h = 0; h < model.kv_heads; ++h)
        for (std::size_t t = 0; t < tokens.size(); ++t) {
          const std::size_t at = (h * tokens.size() + t) * model.head_dim;
          const float label = static_cast<float>(1000 * static_cast<std::size_t>(tokens[t]) + t);
          ASSERT_EQ(static_cast<const float*>(cache.keys(segment)[i])[at], label) << "segment " << segment << ", token " << t;
          ASSERT_EQ(static_cast<const float*>(cache.values(segment)[i])[at], -label);
        }
  }

  static Tokens from(std::int32_t first, std::size_t count) {
    Tokens tokens(count);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  }
  static Tokens joined(Tokens a, const Tokens& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
};

TEST_F(PrefixCacheTest, OthersInBetweenCauseNoRecomputation) {
  PrefixCache cache(bundle, backend, 4 * bytes());
  EXPECT_EQ(use(cache, from(1, 8), 3), 0u);
  EXPECT_EQ(use(cache, from(20, 8), 1), 0u);
  backend.passes.clear();
  EXPECT_EQ(use(cache, from(1, 8), 3), 8u);
  EXPECT_EQ(backend.passes, Passes{});
  EXPECT_EQ(use(cache, from(20, 8), 2), 8u);
  EXPECT_EQ(backend.passes, (Passes{{1, 0, 8}}));  // deepened from where it was
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedIsEvicted) {
  PrefixCache cache(bundle, backend, 2 * bytes() + bytes() / 2);
  use(cache, from(1, 8), 3);
  use(cache, from(20, 8), 3);
  use(cache, from(1, 8), 3);
  use(cache, from(40, 8), 3);
  EXPECT_LE(cache.prefix_bytes(), 2 * bytes() + bytes() / 2);
  EXPECT_EQ(use(cache, from(1, 8), 3), 8u);
  EXPECT_EQ(use(cache, from(20, 8), 3), 0u);
}

TEST_F(PrefixCacheTest, TheBudgetHoldsWhileAPrefixGrows) {
  PrefixCache cache(bundle, backend, 2 * bytes());
  for (std::int32_t n = 0; n < 6; ++n) use(cache, from(1 + 9 * n, 8), 1);
  for (std::size_t n = 0; n < 12; ++n) {
    use(cache, from(1 + static_cast<std::int32_t>(9 * (n % 5)), 4 + n % 5), 3);
    EXPECT_LE(cache.prefix_bytes(), 2 * bytes()) << n;
    EXPECT_GE(cache.memory(), cache.prefix_bytes());
  }
}

TEST_F(PrefixCacheTest, APrefixLargerThanTheBudgetStaysAlone) {
  PrefixCache cache(bundle, backend, 1);
  use(cache, from(1, 8), 3);
  EXPECT_EQ(use(cache, from(1, 8), 3), 8u);
  use(cache, from(20, 8), 3);
  EXPECT_LE(cache.prefix_bytes(), bytes());
  EXPECT_EQ(use(cache, from(1, 8), 3), 0u);
}

TEST_F(PrefixCacheTest, ReleasesTheBlocksOfALongPrefix) {
  for (const std::size_t depth : {std::size_t{1}, std::size_t{3}}) {
    PrefixCache cache(bundle, backend, 1);
    use(cache, from(100, 80), 3);
    use(cache, from(1, 8), depth);
    EXPECT_LE(cache.prefix_bytes(), 4 * bytes(8));
    use(cache, joined(from(1, 8), from(50, 72)), depth);
    EXPECT_EQ(use(cache, from(1, 8), 3), 8u);  // in the same memory
    EXPECT_LE(cache.prefix_bytes(), 4 * bytes(8));
    EXPECT_EQ(use(cache, from(1, 7), 3), 7u);
    EXPECT_LE(cache.memory(), 12 * bytes(8));
  }
}

TEST_F(PrefixCacheTest, AnOverflowingSizeIsOutOfMemory) {
  const_cast<Model&>(bundle.model()).kv_heads = std::size_t{1} << 59;  // times 8 tokens, 4 bytes: 2^64
  PrefixCache cache(bundle, backend, bytes());
  EXPECT_THROW(use(cache, from(1, 8), 1), std::bad_alloc);
}

TEST_F(PrefixCacheTest, ABudgetForASinglePrefixSharesInPlace) {
  const Tokens start = from(1, 6);
  for (const std::size_t budget : {std::size_t{1}, bytes(8), bytes(8) + bytes(8) / 2}) {
    PrefixCache cache(bundle, backend, budget);
    use(cache, joined(start, from(30, 2)), 2);
    backend.passes.clear();
    EXPECT_EQ(use(cache, joined(start, from(40, 2)), 1), 6u);  // as long
    EXPECT_EQ(backend.passes, (Passes{{0, 6, 2}}));
    backend.passes.clear();
    EXPECT_EQ(use(cache, joined(start, from(50, 6)), 3), 6u);  // longer, and deeper than any so far
    EXPECT_EQ(backend.passes, (Passes{{0, 6, 6}, {1, 6, 6}, {2, 0, 12}}));
    backend.passes.clear();
    EXPECT_EQ(use(cache, joined(start, from(60, 1)), 3), 6u);  // shorter
    EXPECT_EQ(backend.passes, (Passes{{0, 6, 1}, {1, 6, 1}, {2, 6, 1}}));
    backend.passes.clear();
    EXPECT_EQ(use(cache, from(1, 4), 3), 4u);  // a start alone
    EXPECT_EQ(backend.passes, Passes{});
    EXPECT_LE(cache.prefix_bytes(), std::max(budget, 2 * bytes(8)));
  }
}

TEST_F(PrefixCacheTest, ASharedStartIsCopiedAsDeepAsItIs) {
  PrefixCache cache(bundle, backend, 8 * bytes());
  use(cache, joined(from(1, 6), from(30, 4)), 2);
  backend.passes.clear();
  EXPECT_EQ(use(cache, joined(from(1, 6), from(50, 5)), 3), 6u);
  // Only the rest where there is something to copy, and everything where the other prefix had not been computed.
  EXPECT_EQ(backend.passes, (Passes{{0, 6, 5}, {1, 6, 5}, {2, 0, 11}}));
  backend.passes.clear();
  EXPECT_EQ(use(cache, joined(from(1, 6), from(30, 4)), 3), 10u);
  EXPECT_EQ(backend.passes, (Passes{{2, 0, 10}}));  // the source of the copy is unchanged
}

// All layers' keys and values are adjacent, so a segment's are copied together: from the other prefix, before a pass, and after
// it.
TEST_F(PrefixCacheTest, AdjacentTensorsAreCopiedTogether) {
  PrefixCache cache(bundle, backend, 8 * bytes());
  use(cache, joined(from(1, 6), from(30, 4)), 3);
  EXPECT_EQ(backend.row_copies, std::vector<std::size_t>{});
  use(cache, joined(from(1, 6), from(50, 5)), 3);
  const std::size_t layer = 2 * bundle.model().kv_heads, layers = 2 * layer;  // a segment of one layer, of two
  EXPECT_EQ(backend.row_copies, (std::vector<std::size_t>{layer, layer, layers, layer, layer, layer, layer, layers, layers}));
}

TEST_F(PrefixCacheTest, KeysAndValuesAreAlignedForTheBackend) {
  backend.alignment = 256;
  PrefixCache cache(bundle, backend, 8 * bytes());
  use(cache, joined(from(1, 6), from(30, 5)), 3);
  EXPECT_EQ(use(cache, joined(from(1, 6), from(50, 7)), 3), 6u);
  for (std::size_t k = 0; k < bundle.exits(); ++k)
    for (std::size_t i = 0; i < bundle.variant().segments[k].layers(); ++i)
      for (const void* tensor : {cache.keys(k)[i], cache.values(k)[i]})
        EXPECT_EQ((static_cast<const std::byte*>(tensor) - static_cast<const std::byte*>(cache.keys(k)[0])) % 256, 0);
}

TEST_F(PrefixCacheTest, TheStartOfACachedPrefixNeedsNoPass) {
  PrefixCache cache(bundle, backend, 8 * bytes());
  use(cache, from(1, 10), 3);
  backend.passes.clear();
  EXPECT_EQ(use(cache, from(1, 6), 3), 6u);
  EXPECT_EQ(backend.passes, Passes{});
  EXPECT_EQ(use(cache, from(1, 12), 3), 10u);
  EXPECT_EQ(backend.passes, (Passes{{0, 10, 2}, {1, 10, 2}, {2, 10, 2}}));
}

TEST_F(PrefixCacheTest, SharesOfAPartlyComputedShare) {
  PrefixCache cache(bundle, backend, 8 * bytes());
  use(cache, joined(from(1, 8), from(30, 2)), 2);
  use(cache, joined(from(1, 8), from(40, 2)), 1);  // 8 tokens reach segment 1, 2 only segment 0
  backend.passes.clear();
  EXPECT_EQ(use(cache, joined(joined(from(1, 8), from(40, 2)), from(60, 1)), 3), 10u);
  EXPECT_EQ(backend.passes, (Passes{{0, 10, 1}, {1, 8, 3}, {2, 0, 11}}));
}

TEST_F(PrefixCacheTest, AShareBelowASixteenthIsNotWorthIt) {
  PrefixCache cache(bundle, backend, 40 * bytes());
  use(cache, joined(from(1, 2), from(30, 31)), 1);
  EXPECT_EQ(use(cache, joined(from(1, 2), from(70, 31)), 1), 0u);
  EXPECT_EQ(use(cache, joined(from(1, 2), from(110, 30)), 1), 2u);
}

// The user's history is longer by a token each time, and what stands behind it changes: all of the others is reused, each as deep
// as some earlier request has needed it. Also in the one place that a small budget has.
TEST_F(PrefixCacheTest, AGrowingPrefixReusesAllUnchangedTokens) {
  for (const std::size_t budget : {std::size_t{1}, 2 * bytes(12), 40 * bytes(12)}) {
    PrefixCache cache(bundle, backend, budget);
    const auto grown = [&](std::size_t count) { return joined(from(1, count), from(100 * static_cast<std::int32_t>(count), 2)); };
    use(cache, grown(10), 3);
    backend.passes.clear();
    EXPECT_EQ(use(cache, grown(11), 1), 10u);
    EXPECT_EQ(use(cache, grown(12), 2), 11u);
    EXPECT_EQ(use(cache, grown(13), 1), 12u);
    EXPECT_EQ(use(cache, grown(14), 3), 13u);
    EXPECT_EQ(backend.passes, (Passes{{0, 10, 3}, {0, 11, 3}, {1, 10, 4}, {0, 12, 3}, {0, 13, 3}, {1, 12, 4}, {2, 10, 6}}))
        << budget;
  }
}

TEST_F(PrefixCacheTest, ASupersededPrefixIsEvictedFirst) {
  PrefixCache cache(bundle, backend, 3 * bytes(12) + bytes(12) / 2);
  use(cache, from(100, 12), 3);  // the least recently used
  use(cache, from(1, 10), 3);
  use(cache, from(1, 11), 3);  // covers the one before it, as long as there is room for both
  EXPECT_GT(cache.prefix_bytes(), 2 * bytes(12));
  use(cache, from(200, 12), 3);
  EXPECT_EQ(use(cache, from(100, 12), 3), 12u);
  EXPECT_EQ(use(cache, from(1, 11), 3), 11u);
}

// Not superseded: the new prefix lacks much of it.
TEST_F(PrefixCacheTest, AnotherPrefixWithTheSameStartIsNotSuperseded) {
  PrefixCache cache(bundle, backend, 3 * bytes(12) + bytes(12) / 2);
  use(cache, from(100, 12), 3);
  use(cache, joined(from(1, 8), from(50, 4)), 3);
  use(cache, joined(from(1, 8), from(60, 4)), 3);
  use(cache, from(200, 12), 3);
  EXPECT_EQ(use(cache, joined(from(1, 8), from(50, 4)), 3), 12u);
}

class PinnedStartTest : public PrefixCacheTest {
 protected:
  PinnedStartTest() : tokens(start.tokens()) {}

  Tokens behind(std::int32_t first, std::size_t count = 6) const { return joined(tokens, from(first, count)); }

  BackendFactory here() const {
    return [this] { return std::shared_ptr<const Backend>(std::shared_ptr<const Backend>(), &backend); };
  }

  Bundle with{bundles() + "/sound_with_start/bundle", nullptr};
  PinnedStart start{with, here()};
  const Tokens tokens;
};

TEST_F(PinnedStartTest, EndsBeforeTheFirstOpAboutTheUser) {
  EXPECT_EQ(tokens.size(), 11u);
  EXPECT_EQ(PinnedStart::tokens_of(bundle), Tokens{});  // its two tokens are too few
}

// The bundle with a start, whose first piece is repeated, and whose prompts may have 16 million tokens.
TEST_F(PinnedStartTest, IsOfLimitedLength) {
  using nlohmann::json;
  const json op = {{"op", "piece"}, {"piece", 0}};
  const std::size_t positions = std::size_t{1} << 24;
  const auto length = [&](std::size_t times) {
    tar::Files files = tar::files_of(bundles() + "/sound_with_start/bundle");
    manifests::change(files, "catalog/catalog.json", [&](json& catalog) {
      json& prefix = catalog["prompt"]["prefix"];
      prefix.insert(prefix.begin(), times, op);
    });
    manifests::change(files, "manifest.json", [&](json& manifest) { manifest["model"]["max_positions"] = positions; });
    manifests::change(files, "variants/cpu-fp32/variant.json",
                      [&](json& variant) { variant["limits"]["max_positions"] = positions; });
    manifests::record(files);
    return PinnedStart::tokens_of(Bundle(tar::Folder(files).path(), nullptr)).size();
  };
  const std::size_t piece = length(1) - tokens.size();
  ASSERT_GT(piece, 0u);
  EXPECT_EQ(length(100), tokens.size() + 100 * piece);
  EXPECT_EQ(length(9000), 4096u);
}

TEST_F(PinnedStartTest, IsComputedOnceForAllAndNeverDropped) {
  EXPECT_EQ(backend.passes, (Passes{{0, 0, 11}, {1, 0, 11}, {2, 0, 11}}));
  const Model& model = bundle.model();
  EXPECT_EQ(start.bytes(), 11 * 2 * 4 * model.layers * model.kv_heads * model.head_dim);
  backend.passes.clear();
  PrefixCache one(bundle, backend, 1, &start), other(bundle, backend, 8 * bytes(20), &start);
  EXPECT_EQ(use(one, behind(20), 1), 11u);
  EXPECT_EQ(backend.passes, (Passes{{0, 11, 6}}));
  backend.passes.clear();
  other.clear();
  EXPECT_EQ(use(other, behind(30, 7), 3), 11u);
  EXPECT_EQ(use(one, behind(40), 3), 11u);
  EXPECT_EQ(backend.passes, (Passes{{0, 11, 7}, {1, 11, 7}, {2, 11, 7}, {0, 11, 6}, {1, 11, 6}, {2, 11, 6}}));
  EXPECT_EQ(other.prefix_bytes(), bytes(18));  // without the pinned start
  backend.passes.clear();
  other.clear();
  EXPECT_EQ(use(other, tokens, 3), 11u);  // nothing else in the prefix
  EXPECT_EQ(backend.passes, Passes{});
  EXPECT_EQ(use(one, from(70, 12), 1), 0u);
}

TEST_F(PinnedStartTest, ACachedPrefixIsPreferredIfItSavesMore) {
  PrefixCache cache(bundle, backend, 8 * bytes(20), &start);
  use(cache, behind(20), 1);
  EXPECT_EQ(use(cache, joined(behind(20), from(50, 1)), 1), 17u);
  EXPECT_EQ(use(cache, joined(behind(20), from(50, 2)), 3), 18u);  // where the other one is not deep, from the start on
}

TEST_F(PinnedStartTest, AFailureEndsTheOpening) {
  backend.fails = true;
  EXPECT_THROW(PinnedStart(with, here()), Error);
}

TEST_F(PrefixCacheTest, ClearDropsPrefixesAndKeepsTheMemory) {
  PrefixCache cache(bundle, backend, 8 * bytes());
  use(cache, from(1, 8), 3);
  use(cache, from(20, 8), 3);
  const std::size_t before = cache.memory();
  cache.clear();
  EXPECT_EQ(use(cache, from(1, 8), 3), 0u);
  EXPECT_EQ(use(cache, from(20, 8), 3), 0u);
  EXPECT_EQ(cache.memory(), before);
}

TEST_F(PrefixCacheTest, AnEmptyPrefixIsReady) {
  PrefixCache cache(bundle, backend, bytes());
  use(cache, from(1, 8), 1);
  EXPECT_EQ(cache.set_current(nullptr, 0), 0u);
  EXPECT_TRUE(cache.ready(2));
  EXPECT_EQ(cache.tokens(), 0u);
}

}  // namespace

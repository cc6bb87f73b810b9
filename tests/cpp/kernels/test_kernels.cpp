// The kernels against their definitions in double precision, for every instruction set of this machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "files/half.hpp"
#include "kernels/attention/attention_pairs.hpp"
#include "kernels/attention/slate_attention.hpp"
#include "kernels/products/bfloat16_product_block.hpp"
#include "kernels/products/bfloat16_products.hpp"
#include "kernels/products/int8_products.hpp"
#include "kernels/rows/rows.hpp"

namespace rexit::core::kernels {
namespace {

struct OnTheHeap : Threads {
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes, std::align_val_t(cache_line)); }
  void release(void* memory) const noexcept override { ::operator delete(memory, std::align_val_t(cache_line)); }

 protected:
  ~OnTheHeap() = default;
};

struct Serial final : OnTheHeap {
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    for (std::size_t i = 0; i < count; ++i) function(data, i);
  }
};

// Two threads, the later tasks first.
struct TwoThreads final : OnTheHeap {
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    std::thread other([&] {
      for (std::size_t i = count; i-- > count / 2;) function(data, i);
    });
    for (std::size_t i = count / 2; i-- > 0;) function(data, i);
    other.join();
  }
};

std::vector<float> normal(std::size_t count, float scale = 1) {
  static std::mt19937 random(1);
  std::normal_distribution<float> draw(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = draw(random);
  return values;
}

enum class As { floats, halves, int8 };
constexpr As all_kinds[] = {As::floats, As::halves, As::int8};
const char* name_of(As as) { return as == As::floats ? ", floats" : as == As::halves ? ", halves" : ", int8"; }

// Keys or values as floats; for the other types the same numbers in `halves`, or in `bytes` with a row's exponent at its end.
struct Numbers {
  Numbers(std::size_t rows, std::size_t dim, As as) : floats(normal(rows * dim)) {
    static std::mt19937 random(2);
    for (std::size_t i = 0; as == As::halves && i < floats.size(); ++i) {
      // Both signs; zero and subnormals at times, else from 1/8 to 4.
      const auto bits = static_cast<std::uint16_t>(random());
      const int magnitude = bits % 16 == 0 ? bits % 0x400 : 0x3000 + bits % 0x1400;
      halves.push_back(static_cast<std::uint16_t>((bits & 0x8000) | magnitude));
      floats[i] = to_float(static_cast<Half>(halves.back()));
    }
    for (std::size_t row = 0; as == As::int8 && row < rows; ++row) {
      const auto exponent = static_cast<std::int8_t>(-80 + static_cast<int>(random() % 40));  // scales from 1/1024 to 1/32
      for (std::size_t d = 0; d < dim; ++d) {
        bytes.push_back(static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127));
        floats[row * dim + d] = static_cast<float>(bytes.back()) * static_cast<float>(std::exp2(exponent / 8.0));
      }
      bytes.push_back(exponent);
    }
  }
  Stored stored() const {
    return !halves.empty() ? Stored(halves.data()) : !bytes.empty() ? Stored(bytes.data()) : Stored(floats.data());
  }

  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
  std::vector<std::int8_t> bytes;
};

// To bfloat16 and back.
float rounded(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

std::string name_of(const Table& with) {
  return std::to_string(with.lanes) + (with.pairs != nullptr ? " lanes with bfloat16" : " lanes");
}

struct Case {
  std::size_t heads, kv_heads, prefix, dim;
  std::vector<std::size_t> candidates;  // their numbers of tokens
};

// Inputs of exactly the right sizes, so that a sanitizer detects reads beyond them. In bfloat16 a softmax's numerator may round
// to the other neighbour, which is at most 1/128 of its share away.
void check(const Case& c, const Table& with, float scale, const Threads& threads, As as, double tolerance = 5e-6,
           bool bfloat16 = false) {
  std::vector<std::int64_t> groups;
  for (std::size_t g = 0; g < c.candidates.size(); ++g)
    groups.insert(groups.end(), c.candidates[g], static_cast<std::int64_t>(g % 2));
  const std::size_t tokens = groups.size(), shared = c.heads / c.kv_heads;
  const auto query = normal(c.heads * tokens * c.dim);
  const Numbers key(c.kv_heads * tokens, c.dim, as), value(c.kv_heads * tokens, c.dim, as);
  const Numbers past_key(c.kv_heads * c.prefix, c.dim, as), past_value(c.kv_heads * c.prefix, c.dim, as);
  std::vector<float> out(c.heads * tokens * c.dim, NAN);
  attend({query.data(), key.stored(), value.stored(), past_key.stored(), past_value.stored(), groups.data(), out.data(), c.heads,
          c.kv_heads, tokens, c.prefix, c.dim, scale, bfloat16},
         threads, with);
  const auto operand = [&](float number) { return double{bfloat16 ? rounded(number) : number}; };
  for (std::size_t head = 0; head < c.heads; ++head) {
    const std::size_t kv = head / shared;
    for (std::size_t t = 0, first = 0; t < tokens; ++t) {
      if (t > 0 && groups[t] != groups[t - 1]) first = t;
      std::vector<const float*> keys, values;
      for (std::size_t p = 0; p < c.prefix; ++p) {
        keys.push_back(past_key.floats.data() + (kv * c.prefix + p) * c.dim);
        values.push_back(past_value.floats.data() + (kv * c.prefix + p) * c.dim);
      }
      for (std::size_t u = first; u <= t; ++u) {
        keys.push_back(key.floats.data() + (kv * tokens + u) * c.dim);
        values.push_back(value.floats.data() + (kv * tokens + u) * c.dim);
      }
      std::vector<double> shares;
      for (const float* row : keys) {
        double score = 0;
        for (std::size_t d = 0; d < c.dim; ++d) score += operand(query[(head * tokens + t) * c.dim + d]) * operand(row[d]);
        shares.push_back(score * scale);
      }
      const double most = *std::max_element(shares.begin(), shares.end());
      double sum = 0;
      for (double& share : shares) {
        sum += share = std::exp(share - most);
        if (bfloat16) share = rounded(static_cast<float>(share));
      }
      for (std::size_t d = 0; d < c.dim; ++d) {
        double expected = 0, size = 0;
        for (std::size_t i = 0; i < values.size(); ++i) {
          expected += shares[i] / sum * operand(values[i][d]);
          size += shares[i] / sum * std::fabs(operand(values[i][d]));
        }
        ASSERT_NEAR(out[(head * tokens + t) * c.dim + d], expected, bfloat16 ? tolerance + size / 128 : tolerance)
            << "head " << head << ", token " << t;
      }
    }
  }
}

#if defined(__x86_64__) && defined(__GLIBC__)
TEST(Tables, AreThoseThatTheCompilerFinds) {
  std::vector<std::size_t> expected{baseline_table.lanes}, lanes;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) expected.insert(expected.begin(), avx2_table.lanes);
  const bool wide =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool pairs = __builtin_cpu_supports("avx512bf16");
  expected.insert(expected.begin(), wide + (wide && pairs), avx512_table.lanes);
  for (const Table* table : tables()) {
    lanes.push_back(table->lanes);
    EXPECT_EQ(table->pairs != nullptr, pairs && table == tables().front());
    EXPECT_EQ(table->int8 != nullptr, table->lanes == avx512_table.lanes && __builtin_cpu_supports("avx512vnni"));
  }
  EXPECT_EQ(lanes, expected);
}
#endif

TEST(SlateAttention, IsSoftmaxOverThePrefixAndTheOwnCandidate) {
  const std::vector<Case> cases{
      {9, 3, 50, 64, {12, 12, 12, 12, 12}},  // whole vectors, several blocks
      {9, 3, 0, 64, {70}},                   // a prefix by itself
      {4, 4, 5, 8, {1, 7, 3, 16, 17, 2}},    // heads that share nothing, candidates cut by blocks
      {6, 2, 33, 80, {3, 60, 1}},
      {2, 1, 3, 6, {4, 5}},    // vectors of one
      {5, 5, 0, 12, {1, 1}},   // single tokens, no prefix
      {64, 1, 2, 16, {2, 3}},  // more query heads than a block has rows
      // Heads that end within a vector: the last vector overlaps the previous one.
      {4, 2, 19, 72, {5, 9}},
      {4, 1, 7, 20, {30}},
      {2, 2, 0, 17, {3, 4}},
      {2, 2, 40, 100, {3, 14}},
      // Odd numbers of tokens, which end within a pair.
      {9, 3, 1, 64, {1, 2, 1, 3}},
      {4, 2, 201, 64, {12, 11, 5, 1, 1}},
      {3, 3, 64, 32, {7, 1, 9}},
      {2, 1, 63, 66, {40, 1}},
  };
  for (const Table* with : tables())
    for (const Case& c : cases)
      for (const As as : all_kinds) {
        SCOPED_TRACE(name_of(*with) + ", head_dim " + std::to_string(c.dim) + name_of(as));
        check(c, *with, 1 / std::sqrt(static_cast<float>(c.dim)), Serial{}, as);
        check(c, *with, 1 / std::sqrt(static_cast<float>(c.dim)), TwoThreads{}, as);
        check(c, *with, 1 / std::sqrt(static_cast<float>(c.dim)), TwoThreads{}, as, 5e-6, true);
      }
}

// Against exact keys and values: a share is off by the rounding of its score, some 2^-9 of it, and its own.
TEST(SlateAttention, InBfloat16IsNearTheExactOne) {
  constexpr std::size_t heads = 4, kv_heads = 2, tokens = 24, prefix = 101, dim = 64;
  const auto query = normal(heads * tokens * dim);
  const std::vector<std::int64_t> groups(tokens);
  for (const As as : all_kinds) {
    const Numbers key(kv_heads * tokens, dim, as), value(kv_heads * tokens, dim, as);
    const Numbers past_key(kv_heads * prefix, dim, as), past_value(kv_heads * prefix, dim, as);
    std::vector<float> exact(query.size()), out(query.size());
    attend({query.data(), key.floats.data(), value.floats.data(), past_key.floats.data(), past_value.floats.data(), groups.data(),
            exact.data(), heads, kv_heads, tokens, prefix, dim, 0.125F},
           Serial{}, baseline_table);
    float largest = 0;
    for (const float number : value.floats) largest = std::max(largest, std::fabs(number));
    for (const Table* with : tables()) {
      attend({query.data(), key.stored(), value.stored(), past_key.stored(), past_value.stored(), groups.data(), out.data(),
              heads, kv_heads, tokens, prefix, dim, 0.125F, true},
             Serial{}, *with);
      for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], exact[i], largest * 0.01) << name_of(as);
    }
  }
}

// Pairs have no tokens of two candidates: what is no number in one stays there.
TEST(SlateAttention, KeepsNaNOutOfOtherCandidates) {
  constexpr std::size_t dim = 64;
  const std::vector<std::int64_t> groups{0, 0, 0, 1, 2, 2};
  for (const Table* with : tables())
    for (const std::size_t prefix : {std::size_t{0}, std::size_t{1}, std::size_t{4}, std::size_t{7}})
      for (const bool in_key : {false, true})
        for (const std::size_t at : {std::size_t{0}, std::size_t{2}, std::size_t{3}, std::size_t{5}}) {
          const auto query = normal(groups.size() * dim);
          const std::vector<std::uint16_t> past(prefix * dim, 0x3c00), own(groups.size() * dim, 0x3c00);
          std::vector<std::uint16_t> lost = own;
          lost[at * dim + 5] = 0x7e00;
          std::vector<float> out(query.size());
          attend({query.data(), in_key ? lost.data() : own.data(), in_key ? own.data() : lost.data(), past.data(), past.data(),
                  groups.data(), out.data(), 1, 1, groups.size(), prefix, dim, 0.125F, true},
                 Serial{}, *with);
          for (std::size_t t = 0; t < groups.size(); ++t)
            if (groups[t] != groups[at]) EXPECT_TRUE(std::isfinite(out[t * dim + 5])) << name_of(*with) << ", token " << t;
          EXPECT_TRUE(std::isnan(out[at * dim + 5])) << name_of(*with) << ", prefix " << prefix;
        }
}

// Scores in the hundreds: all weight is on one key, and underflow loses none of it.
TEST(SlateAttention, HoldsLargeScores) {
  for (const Table* with : tables()) check({4, 2, 20, 16, {5, 6}}, *with, 60, Serial{}, As::floats, 1e-3);
}

std::size_t calls;
std::vector<std::size_t> columns;  // of keys, in each call

TEST(SlateAttention, TakesWholeVectorsForHeadsOfAnyLength) {
  Table counted = table();
  counted.attend = [](void*, std::size_t) { ++calls; };
  const std::vector<float> x(100);
  const std::int64_t group = 0;
  for (std::size_t dim = 1; dim < 100; ++dim) {
    calls = 0;
    std::vector<float> out(dim);
    attend({x.data(), x.data(), x.data(), x.data(), x.data(), &group, out.data(), 1, 1, 1, 1, dim, 1}, Serial{}, counted);
    EXPECT_EQ(calls, dim >= counted.lanes ? 1u : 0u) << dim;
  }
}

// With a multiple of 4096 bytes a column's numbers share a cache set.
TEST(SlateAttention, SpreadsKeysOverTheCache) {
  Table counted = table();
  columns.clear();
  counted.attend = [](void* work, std::size_t) { columns.push_back(static_cast<const AttentionWork*>(work)->columns); };
  const std::vector<float> x(1200 * counted.lanes);
  const std::int64_t group = 0;
  std::vector<float> out(counted.lanes);
  for (std::size_t prefix = 0; prefix < 1200; prefix += 8)
    attend({x.data(), x.data(), x.data(), x.data(), x.data(), &group, out.data(), 1, 1, 1, prefix, counted.lanes, 1}, Serial{},
           counted);
  EXPECT_EQ(columns.size(), 150u);
  for (const std::size_t column : columns) EXPECT_EQ(column % 32, 16u);
}

std::size_t misaligned;

// A vector that crosses two cache lines takes two loads.
TEST(SlateAttention, AlignsKeysToCacheLines) {
  Table counted = table();
  misaligned = 0;
  counted.attend = [](void* work, std::size_t) {
    if (reinterpret_cast<std::uintptr_t>(static_cast<const AttentionWork*>(work)->keys) % 64 != 0) ++misaligned;
  };
  const std::int64_t group = 0;
  std::vector<float> out(counted.lanes);
  for (const std::size_t prefix :
       {std::size_t{1}, std::size_t{1000}, std::size_t{100'000}}) {  // the last is a mapping of its own
    const std::vector<float> x(prefix * counted.lanes);
    attend({x.data(), x.data(), x.data(), x.data(), x.data(), &group, out.data(), 1, 1, 1, prefix, counted.lanes, 1}, Serial{},
           counted);
  }
  EXPECT_EQ(misaligned, 0u);
}

// To the last bit, in the columns of its head: first the prefix's keys, then the slate's, and zeros behind them. Values are
// converted to floats, unless they are.
void expect_packed(std::size_t lanes, Threads::Function pack, std::size_t dim, std::size_t prefix, std::size_t tokens, As as) {
  SCOPED_TRACE(std::to_string(lanes) + " lanes, head_dim " + std::to_string(dim) + ", " + std::to_string(prefix) + " and " +
               std::to_string(tokens) + " tokens" + name_of(as));
  constexpr std::size_t heads = 2;
  constexpr float scale = 0.3F;
  const Numbers key(heads * tokens, dim, as), value(heads * tokens, dim, as);
  const Numbers past(heads * prefix, dim, as), past_value(heads * prefix, dim, as);
  const std::size_t width = odd_lines(prefix + tokens + 16);
  const std::size_t packs = (width + pack_columns - 1) / pack_columns;
  const bool converted = as != As::floats;
  std::vector<float> packed(heads * dim * width, NAN), past_values(past_value.floats.size(), NAN),
      values(value.floats.size(), NAN);
  const SlateAttention of{nullptr, key.stored(), value.stored(), past.stored(), past_value.stored(),
                          nullptr, nullptr,      heads,          heads,         tokens,
                          prefix,  dim,          scale};
  AttentionWork work{of,
                     1,
                     1,
                     tokens,
                     width,
                     packs,
                     nullptr,
                     packed.data(),
                     converted ? past_values.data() : nullptr,
                     converted ? values.data() : nullptr};
  for (std::size_t task = 0; task < heads * packs; ++task) pack(&work, task);
  for (std::size_t head = 0; head < heads; ++head)
    for (std::size_t column = 0; column < width; ++column)
      for (std::size_t d = 0; d < dim; ++d) {
        float expected = 0;
        if (column < prefix) expected = past.floats[(head * prefix + column) * dim + d] * scale;
        if (column >= prefix && column < prefix + tokens)
          expected = key.floats[(head * tokens + column - prefix) * dim + d] * scale;
        ASSERT_EQ(packed[(head * dim + d) * width + column], expected) << "head " << head << ", " << column << ", " << d;
      }
  if (!converted) return;
  EXPECT_EQ(past_values, past_value.floats);
  EXPECT_EQ(values, value.floats);
}

TEST(SlateAttention, PacksKeysAsColumns) {
  std::vector<std::pair<std::size_t, Threads::Function>> all{
      {1, [](void* work, std::size_t task) { pack<1>(*static_cast<const AttentionWork*>(work), task); }}};
  for (const Table* table : tables()) all.emplace_back(table->lanes, table->pack);
  for (const auto& [lanes, pack] : all)
    for (const std::size_t dim : {1u, 3u, 4u, 7u, 8u, 15u, 16u, 17u, 31u, 32u, 64u, 72u})
      for (const std::size_t prefix : {0u, 1u, 16u, 70u})
        for (const std::size_t tokens : {1u, 15u, 33u})
          for (const As as : all_kinds)
            if (dim >= lanes) expect_packed(lanes, pack, dim, prefix, tokens, as);
}

// All 65536 halves, as a value with a single key, which has all the weight.
TEST(SlateAttention, ReadsEveryHalf) {
  constexpr std::size_t heads = 64, dim = 1024;
  std::vector<std::uint16_t> bits(heads * dim);
  std::iota(bits.begin(), bits.end(), std::uint16_t{0});
  const std::vector<std::uint16_t> zeros(bits.size());
  const SlateAttention of{nullptr, nullptr, nullptr, zeros.data(), bits.data(), nullptr, nullptr, heads, heads, 0, 1, dim, 1};
  const std::size_t width = odd_lines(1 + 16), packs = 1;
  std::vector<float> packed(heads * dim * width);
  std::vector<std::pair<std::size_t, Threads::Function>> all{
      {1, [](void* work, std::size_t task) { pack<1>(*static_cast<const AttentionWork*>(work), task); }}};
  for (const Table* table : tables()) all.emplace_back(table->lanes, table->pack);
  for (const auto& [lanes, task] : all) {
    std::vector<float> values(bits.size());
    AttentionWork work{of, 1, 1, 0, width, packs, nullptr, packed.data(), values.data(), nullptr};
    for (std::size_t head = 0; head < heads; ++head) task(&work, head);
    for (const std::uint16_t half : bits) {
      const float value = values[half];
      if (is_finite(static_cast<Half>(half))) {
        ASSERT_EQ(value, to_float(static_cast<Half>(half))) << lanes << " lanes, " << half;
      } else if ((half & 0x3ff) != 0) {
        ASSERT_TRUE(std::isnan(value)) << lanes << " lanes, " << half;
      } else {
        ASSERT_TRUE(std::isinf(value)) << lanes << " lanes, " << half;
      }
      ASSERT_EQ(std::signbit(value), half >= 0x8000) << lanes << " lanes, " << half;
    }
  }
}

// A prefix computed at once equals one computed after a copy of its start, to the bit.
TEST(SlateAttention, DoesNotDependOnThePastsLength) {
  constexpr std::size_t heads = 6, kv_heads = 2, tokens = 53;
  const std::vector<std::int64_t> groups(tokens);
  for (const Table* with : tables())
    for (const std::size_t dim : {16u, 64u, 72u})
      for (const As as : all_kinds)
        for (const bool bfloat16 : {false, true}) {
          const auto query = normal(heads * tokens * dim);
          const Numbers key(kv_heads * tokens, dim, as), value(kv_heads * tokens, dim, as);
          std::vector<float> whole(query.size());
          attend({query.data(), key.stored(), value.stored(), nullptr, nullptr, groups.data(), whole.data(), heads, kv_heads,
                  tokens, 0, dim, 0.3F, bfloat16},
                 Serial{}, *with);
          for (const std::size_t past : {1u, 5u, 16u, 31u, 52u}) {
            const std::size_t left = tokens - past;
            // Rows [begin, end) of each head.
            const auto part = [&](const auto& all, std::size_t begin, std::size_t end) {
              std::decay_t<decltype(all)> rows;
              const std::size_t width = std::is_same_v<decltype(rows), std::vector<std::int8_t>> ? dim + 1 : dim;
              for (std::size_t at = 0; at < all.size(); at += tokens * width)
                rows.insert(rows.end(), all.begin() + at + begin * width, all.begin() + at + end * width);
              return rows;
            };
            const auto later = part(query, past, tokens);
            std::vector<float> grown(later.size());
            const auto run = [&](const auto& keys, const auto& values) {
              const auto own_key = part(keys, past, tokens), own_value = part(values, past, tokens);
              const auto past_key = part(keys, 0, past), past_value = part(values, 0, past);
              attend({later.data(), own_key.data(), own_value.data(), past_key.data(), past_value.data(), groups.data(),
                      grown.data(), heads, kv_heads, left, past, dim, 0.3F, bfloat16},
                     Serial{}, *with);
            };
            if (as == As::floats) run(key.floats, value.floats);
            if (as == As::halves) run(key.halves, value.halves);
            if (as == As::int8) run(key.bytes, value.bytes);
            EXPECT_EQ(grown, part(whole, past, tokens))
                << name_of(*with) << ", head_dim " << dim << ", " << past << " past, bfloat16 " << bfloat16 << name_of(as);
          }
        }
}

void expect_nan(const Table& with, std::size_t dim, bool bfloat16) {
  for (const std::size_t at : {std::size_t{0}, std::size_t{9}, std::size_t{21}}) {  // a key of the prefix
    const auto x = normal(4 * dim);
    auto past = normal(22 * dim);
    past[at * dim] = NAN;
    const std::vector<std::int64_t> groups(4);
    std::vector<float> out(4 * dim);
    attend({x.data(), x.data(), x.data(), past.data(), past.data(), groups.data(), out.data(), 1, 1, 4, 22, dim, 1, bfloat16},
           Serial{}, with);
    for (const float number : out) EXPECT_TRUE(std::isnan(number));
    const std::vector<std::uint16_t> own_halves(4 * dim, 0x3c00);
    std::vector<std::uint16_t> halves(22 * dim, 0x3c00);
    halves[at * dim] = 0x7e00;
    attend({x.data(), own_halves.data(), own_halves.data(), halves.data(), halves.data(), groups.data(), out.data(), 1, 1, 4, 22,
            dim, 1, bfloat16},
           Serial{}, with);
    for (const float number : out) EXPECT_TRUE(std::isnan(number));
    const std::vector<std::int8_t> own_bytes(4 * (dim + 1), -40);
    std::vector<std::int8_t> bytes(22 * (dim + 1), -40);
    bytes[at * (dim + 1) + dim] = INT8_MIN;
    attend({x.data(), own_bytes.data(), own_bytes.data(), bytes.data(), bytes.data(), groups.data(), out.data(), 1, 1, 4, 22, dim,
            1, bfloat16},
           Serial{}, with);
    for (const float number : out) EXPECT_TRUE(std::isnan(number));
  }
}

TEST(SlateAttention, KeepsNaN) {
  for (const Table* with : tables())
    for (const std::size_t dim : {20u, 64u}) {
      SCOPED_TRACE(name_of(*with) + ", head_dim " + std::to_string(dim));
      for (const bool bfloat16 : {false, true}) expect_nan(*with, dim, bfloat16);
    }
}

TEST(SlateAttention, TakesNoTokens) {
  attend({nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 4, 2, 0, 0, 16, 1}, Serial{});
}

// The definition allows either neighbouring integer if the last bits of the value before rounding differ.
void expect_quantized(const std::vector<double>& x, std::size_t width, const std::vector<std::uint8_t>& values,
                      const std::vector<float>& scales) {
  for (std::size_t row = 0; row < scales.size(); ++row) {
    double most = 0;
    for (std::size_t i = 0; i < width; ++i) most = std::max(most, std::fabs(x[row * width + i]));
    const double scale = std::max(most, 1e-30) / 127;
    ASSERT_NEAR(scales[row] / scale, 1, 1e-5) << "row " << row;
    for (std::size_t i = 0; i < width; ++i)
      ASSERT_NEAR(values[row * width + i], x[row * width + i] / scale + 128, 0.5 + 2e-3) << "row " << row << ", column " << i;
  }
}

class Rows : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override {
    std::fill(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(width), 0.0F);  // a row of zeros
  }
  static constexpr std::size_t rows = 21;  // more than one task's, and not a multiple of it
  std::size_t width = GetParam();
  std::vector<float> x = normal(rows * width, 30), other = normal(rows * width), scale = normal(rows, 0.1F);
  std::vector<std::uint8_t> values = std::vector<std::uint8_t>(rows * width);
  std::vector<float> scales = std::vector<float>(rows);
  QuantizedRows out{values.data(), scales.data(), rows, width};
};

TEST_P(Rows, AreQuantized) {
  for (const Table* with : tables()) {
    quantize_rows(x.data(), out, TwoThreads{}, *with);
    expect_quantized({x.begin(), x.end()}, width, values, scales);
    EXPECT_EQ(values[0], 128);
  }
}

// NaN and infinity must not become ordinary numbers, which would hide a failure.
TEST_P(Rows, KeepNaN) {
  const auto expect_lost = [&](std::size_t at, const Table& with, const char* what) {
    const std::size_t row = at / width;
    for (std::size_t r = 0; r < rows; ++r) {
      EXPECT_EQ(std::isfinite(scales[r]), r != row)
          << what << ", " << with.lanes << " lanes, row " << r << ", column " << at % width;
      for (std::size_t i = 0; r == row && i < width; ++i)
        ASSERT_FALSE(std::isfinite((static_cast<float>(values[at]) - 128) * scales[row])) << what << ", column " << i;
    }
  };
  const std::vector<float> weight(width, 1);
  for (const Table* with : tables())
    for (const float lost : {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY})
      for (const std::size_t at : {width, width + width / 2, 2 * width - 1, rows * width - 1}) {
        const float before = x[at];
        x[at] = lost;
        quantize_rows(x.data(), out, Serial{}, *with);
        expect_lost(at, *with, "quantize");
        rms_norm_quantize_rows(x.data(), weight.data(), 1e-5F, out, Serial{}, *with);
        expect_lost(at, *with, "normalize");
        swiglu_quantize_rows(x.data(), other.data(), scale.data(), out, Serial{}, *with);
        expect_lost(at, *with, "gate");
        x[at] = before;
      }
}

TEST_P(Rows, AreStoredForTheCache) {
  for (std::size_t i = 0; i < width; ++i) x[3 * width + i] = 0;
  for (std::size_t i = 0; i < width; ++i) x[4 * width + i] *= 1e9F;  // beyond the largest scale
  for (const Table* with : tables()) {
    std::vector<std::int8_t> stored(rows * (width + 1), 77);
    quantize_cache(x.data(), stored.data(), rows, width, TwoThreads{}, *with);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::int8_t *row_bytes = stored.data() + row * (width + 1), exponent = row_bytes[width];
      float most = 0;
      for (std::size_t i = 0; i < width; ++i) most = std::max(most, std::fabs(x[row * width + i]));
      const double scale = std::exp2(exponent / 8.0), finer = std::exp2((exponent - 1) / 8.0);
      if (row != 4) EXPECT_LE(most, 127 * scale * (1 + 1e-6)) << row;
      EXPECT_TRUE(exponent == INT8_MIN + 1 || most > 127 * finer * (1 - 1e-6)) << row << ": not the least exponent";
      for (std::size_t i = 0; i < width; ++i) {
        const double exact = std::clamp(x[row * width + i] / scale, -127.0, 127.0);
        ASSERT_NEAR(row_bytes[i], exact, 0.5 + 1e-4) << "row " << row << ", column " << i;
      }
    }
    EXPECT_EQ(stored[3 * (width + 1) + width], INT8_MIN + 1);
    EXPECT_EQ(stored[4 * (width + 1) + width], INT8_MAX);
  }
}

TEST(Rows, OfTheCacheKeepNaN) {
  for (const Table* with : tables())
    for (const float lost : {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY})
      for (const std::size_t at : {0u, 20u, 32u}) {
        std::vector<float> x(2 * 33, 1);
        x[at] = lost;
        std::vector<std::int8_t> stored(2 * 34);
        quantize_cache(x.data(), stored.data(), 2, 33, Serial{}, *with);
        EXPECT_TRUE(std::isnan(scale_of(stored[33]))) << with->lanes << " lanes, " << lost << " in column " << at;
        EXPECT_TRUE(std::isfinite(scale_of(stored[67])));
      }
}

TEST(Rows, OfTheCacheHaveEveryScale) {
  for (int exponent = INT8_MIN + 1; exponent <= INT8_MAX; ++exponent)
    EXPECT_EQ(scale_of(static_cast<std::int8_t>(exponent)), static_cast<float>(std::exp2(exponent / 8.0))) << exponent;
}

TEST(Rows, OfTheCacheHaveTheSmallestScale) {
  for (const Table* with : tables())
    for (int exponent = INT8_MIN + 1; exponent <= INT8_MAX; ++exponent) {
      const float most = 127 * scale_of(static_cast<std::int8_t>(exponent));
      const std::vector<float> x{most, std::nextafter(most, INFINITY)};
      std::int8_t stored[4];  // two rows of a number and its exponent
      quantize_cache(x.data(), stored, 2, 1, Serial{}, *with);
      EXPECT_EQ(stored[1], exponent) << with->lanes << " lanes";
      EXPECT_EQ(stored[3], std::min(exponent + 1, INT8_MAX)) << with->lanes << " lanes";
    }
}

// As QuantizeLinear rounds.
TEST(Rows, RoundTiesToEven) {
  const std::vector<float> x{127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, -127};
  const std::vector<std::uint8_t> expected{255, 128, 130, 130, 128, 126, 126, 1};
  for (const Table* with : tables()) {
    std::vector<std::uint8_t> values(x.size());
    float scale = 0;
    quantize_rows(x.data(), {values.data(), &scale, 1, x.size()}, Serial{}, *with);
    EXPECT_EQ(values, expected);
    EXPECT_EQ(scale, 1);
  }
}

TEST_P(Rows, AreNormalizedFirst) {
  const std::vector<float> weight(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(width));
  std::vector<double> expected(x.size());
  for (std::size_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += double{x[row * width + i]} * x[row * width + i];
    const double norm = std::sqrt(squares / static_cast<double>(width) + 1e-5);
    for (std::size_t i = 0; i < width; ++i) expected[row * width + i] = x[row * width + i] / norm * weight[i];
  }
  for (const Table* with : tables()) {
    rms_norm_quantize_rows(x.data(), weight.data(), 1e-5F, out, TwoThreads{}, *with);
    expect_quantized(expected, width, values, scales);
  }
}

TEST_P(Rows, AreGatedFirst) {
  std::vector<double> expected(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double by = scale[i / width], gate = x[i] * by;
    expected[i] = gate / (1 + std::exp(-gate)) * other[i] * by;
  }
  for (const Table* with : tables()) {
    swiglu_quantize_rows(x.data(), other.data(), scale.data(), out, TwoThreads{}, *with);
    expect_quantized(expected, width, values, scales);
  }
}

TEST_P(Rows, AreScaledAndAddedInPlace) {
  for (const Table* with : tables()) {
    std::vector<float> product = x;
    scale_add_rows(product.data(), scale.data(), other.data(), product.data(), rows, width, TwoThreads{}, *with);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = double{x[i]} * scale[i / width] + other[i];
      ASSERT_NEAR(product[i], expected, 1e-5 * (1 + std::fabs(expected))) << i;
    }
  }
}

std::uint16_t bfloat16_bits(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

TEST_P(Rows, AreRoundedToBfloat16) {
  x[width] = 1 + 0x1p-8F;  // a tie: to even
  x[2 * width] = 1 + 3 * 0x1p-8F;
  std::vector<std::uint16_t> bits(x.size());
  const RoundedRows to{bits.data(), rows, width};
  for (const Table* with : tables()) {
    round_rows(x.data(), to, TwoThreads{}, *with);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(bits[i], bfloat16_bits(x[i])) << with->lanes << " lanes, " << x[i];
    EXPECT_EQ(bits[width], 0x3f80);
    EXPECT_EQ(bits[2 * width], 0x3f82);
  }
}

// A number halfway between two neighbours may go to either.
TEST_P(Rows, AreNormalizedOrGatedAndRounded) {
  const std::vector<float> weight(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(width));
  std::vector<std::uint16_t> bits(x.size());
  const RoundedRows to{bits.data(), rows, width};
  const auto expect_near = [&](std::size_t i, double exact) {
    ASSERT_NEAR(from_bfloat16(bits[i]), exact, std::fabs(exact) * (0x1p-8 + 1e-5) + 1e-30) << i;
  };
  for (const Table* with : tables()) {
    rms_norm_round_rows(x.data(), weight.data(), 1e-5F, to, TwoThreads{}, *with);
    for (std::size_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (std::size_t i = row * width; i < (row + 1) * width; ++i) squares += double{x[i]} * x[i];
      const double norm = std::sqrt(squares / static_cast<double>(width) + 1e-5);
      for (std::size_t i = 0; i < width; ++i) expect_near(row * width + i, x[row * width + i] / norm * weight[i]);
    }
    swiglu_round_rows(x.data(), other.data(), to, TwoThreads{}, *with);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (x[i] > -80) expect_near(i, x[i] / (1 + std::exp(-double{x[i]})) * other[i]);
  }
}

TEST(Rows, InBfloat16KeepNaN) {
  const std::uint32_t least_nan = 0x7f800001;
  float lost;
  std::memcpy(&lost, &least_nan, sizeof lost);
  const std::vector<float> weight(17, 1);
  for (const Table* with : tables())
    for (const float number : {lost, std::nanf(""), INFINITY}) {
      std::vector<float> x(3 * 17, 1);
      x[17 + 16] = number;
      std::vector<std::uint16_t> bits(x.size());
      const RoundedRows to{bits.data(), 3, 17};
      const auto expect_lost = [&](const char* what) {
        for (std::size_t row = 0; row < 3; ++row)
          EXPECT_EQ(std::isfinite(from_bfloat16(bits[row * 17 + 16])), row != 1) << what << ", " << with->lanes << " lanes";
      };
      round_rows(x.data(), to, Serial{}, *with);
      expect_lost("round");
      EXPECT_EQ(std::isnan(from_bfloat16(bits[17 + 16])), std::isnan(number));
      rms_norm_round_rows(x.data(), weight.data(), 1e-5F, to, Serial{}, *with);
      expect_lost("normalize");
      swiglu_round_rows(x.data(), x.data(), to, Serial{}, *with);
      expect_lost("gate");
    }
}

INSTANTIATE_TEST_SUITE_P(Widths, Rows, testing::Values(1, 3, 16, 47, 576));

struct Panels {
  std::size_t rows, depth, panels, panel;
};

// A product's operands, of exactly the right sizes.
struct Operands {
  explicit Operands(const Panels& of)
      : of(of), columns(of.panels * of.panel), residual(normal(of.rows * columns)), out(of.rows * columns, NAN) {
    for (const float number : normal(of.rows * of.depth)) x.push_back(bfloat16_bits(number));
    for (const float number : normal(of.depth * columns)) weight.push_back(bfloat16_bits(number));
  }
  float weight_at(std::size_t i, std::size_t column) const {
    const std::size_t panel = column / of.panel;
    return from_bfloat16(weight[((panel * (of.depth / 2) + i / 2) * of.panel + column % of.panel) * 2 + i % 2]);
  }
  PanelProduct product(const float* add) {
    return {x.data(), weight.data(), add, out.data(), of.rows, of.depth, of.panels, of.panel};
  }

  Panels of;
  std::size_t columns;
  std::vector<std::uint16_t> x, weight;
  std::vector<float> residual, out;
};

// What it is added to is another matrix, or `out` itself.
TEST(Products, OfPanels) {
  for (const Panels& of : {Panels{1, 2, 1, 16}, {7, 64, 3, 64}, {97, 576, 2, 64}, {200, 38, 1, 48}, {13, 514, 2, 32}}) {
    Operands operands(of);
    std::vector<double> expected(operands.out.size()), size(operands.out.size());
    for (std::size_t row = 0; row < of.rows; ++row)
      for (std::size_t column = 0; column < operands.columns; ++column)
        for (std::size_t i = 0; i < of.depth; ++i) {
          const double part = double{from_bfloat16(operands.x[row * of.depth + i])} * operands.weight_at(i, column);
          expected[row * operands.columns + column] += part;
          size[row * operands.columns + column] += std::fabs(part);
        }
    for (const Table* with : tables())
      for (const int kind : {0, 1, 2}) {
        if (kind == 2) operands.out = operands.residual;
        multiply_panels(operands.product(kind == 0   ? nullptr
                                         : kind == 1 ? operands.residual.data()
                                                     : operands.out.data()),
                        TwoThreads{}, *with);
        for (std::size_t i = 0; i < expected.size(); ++i)
          ASSERT_NEAR(operands.out[i], expected[i] + (kind == 0 ? 0 : operands.residual[i]), 1e-6 * (1 + size[i]))
              << name_of(*with) << ", rows " << of.rows << ", depth " << of.depth << ", kind " << kind << ", " << i;
      }
  }
}

TEST(Products, KeepNaN) {
  Operands operands({5, 6, 2, 16});
  const std::uint16_t nan = 0x7fc0;
  for (const Table* with : tables()) {
    Operands lost = operands;
    lost.x[2 * 6 + 5] = nan;  // a row
    multiply_panels(lost.product(nullptr), Serial{}, *with);
    for (std::size_t i = 0; i < lost.out.size(); ++i) EXPECT_EQ(std::isnan(lost.out[i]), i / 32 == 2) << name_of(*with);
    lost = operands;
    lost.weight[(3 * 16 + 4) * 2] = nan;  // the first pair of the second panel's column 4
    multiply_panels(lost.product(nullptr), Serial{}, *with);
    for (std::size_t i = 0; i < lost.out.size(); ++i) EXPECT_EQ(std::isnan(lost.out[i]), i % 32 == 16 + 4) << name_of(*with);
  }
}

TEST(Products, TakeNoRows) {
  Operands operands({0, 2, 1, 16});
  multiply_panels(operands.product(nullptr), Serial{});
}

std::vector<const Table*> tables_with_int8() {
  std::vector<const Table*> with;
  for (const Table* table : tables())
    if (table->int8 != nullptr) with.push_back(table);
  return with;
}

// A random weight [depth, columns], as it is and packed.
struct Int8Weight {
  Int8Weight(std::size_t depth, std::size_t count)
      : columns(count), values(depth * count), packed(values.size()), scales(normal(count, 0.01F)), offsets(count) {
    static std::mt19937 random(3);
    for (std::size_t k = 0; k < depth; ++k)
      for (std::size_t n = 0; n < columns; ++n) {
        // The first columns have the largest sums: every weight is +127 or -127.
        const auto value =
            static_cast<std::int8_t>(n < 2 ? 127 - 254 * static_cast<int>(n) : static_cast<int>(random() % 255) - 127);
        values[k * columns + n] = value;
        packed[n / 16 * 16 * depth + k / 4 * 64 + n % 16 * 4 + k % 4] = value;
        offsets[n] -= 128 * value;
      }
  }
  operator PackedWeight() const { return {packed.data(), scales.data(), offsets.data()}; }
  // As ONNX Runtime computes it, before the row's scale.
  float product(const std::uint8_t* x, std::size_t depth, std::size_t n) const {
    std::int64_t sum = 0;
    for (std::size_t k = 0; k < depth; ++k) sum += (x[k] - 128) * values[k * columns + n];
    return static_cast<float>(sum) * scales[n];
  }

  std::size_t columns;
  std::vector<std::int8_t> values, packed;
  std::vector<float> scales;
  std::vector<std::int32_t> offsets;
};

struct Int8Sizes {
  std::size_t rows, depth, columns;
};

class Int8Products : public testing::TestWithParam<Int8Sizes> {
 protected:
  void SetUp() override {
    if (tables_with_int8().empty()) GTEST_SKIP() << "this processor has no kernels for products";
    static std::mt19937 random(4);
    for (std::uint8_t& value : x) value = static_cast<std::uint8_t>(random() % 255 + 1);
    std::fill(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(depth), std::uint8_t{255});
  }
  const std::size_t rows = GetParam().rows, depth = GetParam().depth, columns = GetParam().columns;
  const Int8Weight weight{depth, columns}, up{depth, columns};
  std::vector<std::uint8_t> x = std::vector<std::uint8_t>(rows * depth);
  std::vector<float> scales = normal(rows, 0.1F), residual = normal(rows * columns);
  QuantizedInput input{x.data(), scales.data(), rows, depth};
};

// To the bit: golden answers come from ONNX Runtime's operators.
TEST_P(Int8Products, AreExact) {
  for (const Table* with : tables_with_int8())
    for (const bool add : {false, true}) {
      std::vector<float> out(rows * columns, NAN);
      multiply_rows(input, weight, columns, add ? residual.data() : nullptr, out.data(), TwoThreads{}, *with);
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t row = i / columns;
        const float product = weight.product(x.data() + row * depth, depth, i % columns);
        ASSERT_EQ(out[i], add ? std::fma(product, scales[row], residual[i]) : product * scales[row]) << add << ", " << i;
      }
    }
}

TEST_P(Int8Products, AreAddedInPlace) {
  for (const Table* with : tables_with_int8()) {
    std::vector<float> expected(rows * columns), out = residual;
    multiply_rows(input, weight, columns, residual.data(), expected.data(), Serial{}, *with);
    multiply_rows(input, weight, columns, out.data(), out.data(), TwoThreads{}, *with);
    EXPECT_EQ(out, expected);
  }
}

TEST_P(Int8Products, AreGatedAndQuantized) {
  std::vector<double> expected(rows * columns);
  std::vector<float> gate_products(expected.size()), up_products(expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t row = i / columns;
    gate_products[i] = weight.product(x.data() + row * depth, depth, i % columns);
    up_products[i] = up.product(x.data() + row * depth, depth, i % columns);
    const double gate = double{gate_products[i]} * scales[row];
    expected[i] = gate / (1 + std::exp(-gate)) * up_products[i] * scales[row];
  }
  for (const Table* with : tables_with_int8()) {
    std::vector<std::uint8_t> values(expected.size()), unfused_values(expected.size());
    std::vector<float> out_scales(rows), unfused_scales(rows);
    multiply_swiglu_quantize_rows(input, weight, up, {values.data(), out_scales.data(), rows, columns}, TwoThreads{}, *with);
    expect_quantized(expected, columns, values, out_scales);
    swiglu_quantize_rows(gate_products.data(), up_products.data(), scales.data(),
                         {unfused_values.data(), unfused_scales.data(), rows, columns}, Serial{}, *with);
    EXPECT_EQ(values, unfused_values);
    EXPECT_EQ(out_scales, unfused_scales);
  }
}

TEST_P(Int8Products, KeepNaN) {
  for (const Table* with : tables_with_int8()) {
    const std::size_t lost = rows / 2;
    const float scale = std::exchange(scales[lost], NAN);
    std::vector<float> out(rows * columns), out_scales(rows);
    std::vector<std::uint8_t> values(out.size());
    multiply_rows(input, weight, columns, residual.data(), out.data(), Serial{}, *with);
    multiply_swiglu_quantize_rows(input, weight, up, {values.data(), out_scales.data(), rows, columns}, Serial{}, *with);
    for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(std::isnan(out[i]), i / columns == lost) << i;
    for (std::size_t row = 0; row < rows; ++row) ASSERT_EQ(std::isnan(out_scales[row]), row == lost) << row;
    scales[lost] = scale;
  }
}

// Every remainder of rows and columns, several blocks and panels, the least depth, and a depth whose sums fill 31 bits.
INSTANTIATE_TEST_SUITE_P(Sizes, Int8Products,
                         testing::Values(Int8Sizes{1, 4, 16}, Int8Sizes{2, 12, 32}, Int8Sizes{3, 8, 48}, Int8Sizes{5, 64, 64},
                                         Int8Sizes{13, 20, 112}, Int8Sizes{49, 32, 176}, Int8Sizes{101, 96, 208},
                                         Int8Sizes{1, 66000, 16}));

TEST(InnerProducts, AreTheSameToTheBitWithEveryInstructionSet) {
  for (const std::size_t width : {0, 1, 7, 8, 9, 64, 100}) {
    constexpr std::size_t count = 5;
    const std::vector<float> x = normal(width), rows = normal(count * width);
    for (const Table* with : tables()) {
      std::vector<double> products(count);
      with->inner_products(x.data(), rows.data(), count, width, products.data());
      for (std::size_t row = 0; row < count; ++row) {
        double sums[8] = {}, sum = 0;
        const std::size_t whole = width / 8 * 8;
        for (std::size_t i = 0; i < width; ++i) {
          const float product = x[i] * rows[row * width + i];
          sums[i < whole ? i % 8 : 0] += static_cast<double>(product);
        }
        for (const double part : sums) sum += part;
        ASSERT_EQ(products[row], sum) << with->lanes << " lanes, width " << width << ", row " << row;
      }
    }
  }
}

TEST(NoInt8Products, AreComputed) {
  for (const Table* with : tables_with_int8()) {
    multiply_rows({nullptr, nullptr, 0, 8}, {}, 16, nullptr, nullptr, Serial{}, *with);
    multiply_swiglu_quantize_rows({nullptr, nullptr, 0, 8}, {}, {}, {nullptr, nullptr, 0, 16}, Serial{}, *with);
  }
}

}  // namespace
}  // namespace rexit::core::kernels

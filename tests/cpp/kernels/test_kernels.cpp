// The kernels against their definitions in double precision, for every instruction set of this machine.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "files/half.hpp"
#include "kernels/attention/attention.hpp"
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

enum class As { floats, halves };
constexpr As all_kinds[] = {As::floats, As::halves};
const char* name_of(As as) { return as == As::floats ? ", floats" : ", halves"; }

// Keys or values as floats; as halves the same numbers in `halves`.
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
  }
  Stored stored() const { return halves.empty() ? Stored(floats.data()) : Stored(halves.data()); }

  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
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
  std::size_t window = 0;
};

// Every table and way of running tasks, on the same inputs, which have exactly the right sizes, so that a sanitizer detects reads
// beyond them. In bfloat16 a softmax's numerator may round to the other neighbour, which is at most 1/128 of its share away.
void check(const Case& c, float scale, As as, const std::vector<const Threads*>& ways, double tolerance = 5e-6,
           bool bfloat16 = false) {
  std::vector<std::int64_t> groups;
  for (std::size_t g = 0; g < c.candidates.size(); ++g)
    groups.insert(groups.end(), c.candidates[g], static_cast<std::int64_t>(g % 2));
  const std::size_t tokens = groups.size(), shared = c.heads / c.kv_heads;
  const auto query = normal(c.heads * tokens * c.dim);
  const Numbers key(c.kv_heads * tokens, c.dim, as), value(c.kv_heads * tokens, c.dim, as);
  const Numbers past_key(c.kv_heads * c.prefix, c.dim, as), past_value(c.kv_heads * c.prefix, c.dim, as);
  const auto operand = [&](float number) { return double{bfloat16 ? rounded(number) : number}; };
  std::vector<double> expected(query.size()), sizes(query.size());  // a size: the sum of magnitudes
  for (std::size_t head = 0; head < c.heads; ++head) {
    const std::size_t kv = head / shared;
    for (std::size_t t = 0, first = 0; t < tokens; ++t) {
      if (t > 0 && groups[t] != groups[t - 1]) first = t;
      std::vector<const float*> keys, values;
      for (std::size_t p = 0; p < c.prefix; ++p) {
        keys.push_back(past_key.floats.data() + (kv * c.prefix + p) * c.dim);
        values.push_back(past_value.floats.data() + (kv * c.prefix + p) * c.dim);
      }
      for (std::size_t u = first; u < tokens && groups[u] == groups[first] && (c.window != 0 || u <= t); ++u) {
        if (c.window != 0 && (u > t ? u - t : t - u) >= c.window) continue;
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
        const std::size_t at = (head * tokens + t) * c.dim + d;
        for (std::size_t i = 0; i < values.size(); ++i) {
          expected[at] += shares[i] / sum * operand(values[i][d]);
          sizes[at] += shares[i] / sum * std::fabs(operand(values[i][d]));
        }
      }
    }
  }
  for (const Table* with : tables())
    for (const Threads* threads : ways) {
      std::vector<float> out(query.size(), NAN);
      attend({query.data(), key.stored(), value.stored(), past_key.stored(), past_value.stored(), groups.data(), out.data(),
              c.heads, c.kv_heads, tokens, c.prefix, c.dim, scale, bfloat16, c.window},
             *threads, *with);
      for (std::size_t i = 0; i < out.size(); ++i)
        ASSERT_NEAR(out[i], expected[i], bfloat16 ? tolerance + sizes[i] / 128 : tolerance)
            << name_of(*with) << ", head " << i / c.dim / tokens << ", token " << i / c.dim % tokens;
    }
}

#if defined(__x86_64__) && defined(__GLIBC__)
TEST(Tables, AreThoseThatTheCompilerFinds) {
  std::vector<std::size_t> expected{baseline_table.lanes}, lanes;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) expected.insert(expected.begin(), avx2_table.lanes);
  const bool wide =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool pairs = __builtin_cpu_supports("avx512bf16");
  // Linux's own word, and its permission: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
  std::ifstream file("/proc/cpuinfo");
  const std::string flags{std::istreambuf_iterator<char>(file), {}};
  const bool tiles = flags.find(" amx_int8") != std::string::npos && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  EXPECT_EQ(tiles, tables().front()->int8 == &avx512_amx_int8);
  expected.insert(expected.begin(), static_cast<std::size_t>(wide + (wide && pairs) + tiles), avx512_table.lanes);
  for (const Table* table : tables()) {
    lanes.push_back(table->lanes);
    EXPECT_EQ(table->pairs != nullptr, pairs && (table == tables().front() || (tiles && table == tables()[1])));
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
      // Encoders: candidates longer than a block, at its edges, and with windows shorter and longer than they are.
      {4, 4, 0, 32, {12, 100, 1, 48, 7, 130}, 1000},
      {2, 2, 0, 64, {3, 97, 60}, 9},
      {2, 2, 0, 64, {1, 1, 2}, 1},
      {4, 2, 5, 16, {50, 31, 96}, 33},
  };
  const Serial serial;
  const TwoThreads two;
  for (const Case& c : cases)
    for (const As as : all_kinds) {
      SCOPED_TRACE("head_dim " + std::to_string(c.dim) + name_of(as));
      const float scale = 1 / std::sqrt(static_cast<float>(c.dim));
      check(c, scale, as, {&serial, &two});
      check(c, scale, as, {&two}, 5e-6, true);
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
  const Serial serial;
  check({4, 2, 20, 16, {5, 6}}, 60, As::floats, {&serial}, 1e-3);
}

// In bfloat16 to the bit, also where what lies around it is no number. Blocks and tiles are cut elsewhere then.
TEST(SlateAttention, OfAnEncoderDoesNotDependOnOtherCandidates) {
  constexpr std::size_t heads = 2, dim = 32;
  for (const Table* with : tables()) {
    if (with->pairs == nullptr) continue;
    for (const std::size_t own : {1u, 7u, 16u, 33u, 70u, 200u})
      for (const std::size_t before : {0u, 1u, 5u, 40u, 47u}) {
        const std::size_t after = 9, tokens = before + own + after;
        const std::vector<std::int64_t> alone(own);
        std::vector<std::int64_t> groups(tokens, 1);
        std::fill(groups.begin() + static_cast<std::ptrdiff_t>(before), groups.end() - static_cast<std::ptrdiff_t>(after), 0);
        const auto query = normal(heads * own * dim), key = normal(query.size()), value = normal(query.size());
        const auto among = [&](const std::vector<float>& numbers) {
          std::vector<float> all(heads * tokens * dim, NAN);
          for (std::size_t head = 0; head < heads; ++head)
            std::copy_n(numbers.data() + head * own * dim, own * dim, all.data() + (head * tokens + before) * dim);
          return all;
        };
        std::vector<float> expected(query.size()), out(heads * tokens * dim);
        attend({query.data(), key.data(), value.data(), nullptr, nullptr, alone.data(), expected.data(), heads, heads, own, 0,
                dim, 0.2F, true, 1000},
               Serial{}, *with);
        const auto queries = among(query), keys = among(key), values = among(value);
        attend({queries.data(), keys.data(), values.data(), nullptr, nullptr, groups.data(), out.data(), heads, heads, tokens, 0,
                dim, 0.2F, true, 1000},
               Serial{}, *with);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const std::size_t head = i / (own * dim);
          ASSERT_EQ(out[(head * tokens + before) * dim + i - head * own * dim], expected[i])
              << name_of(*with) << ", " << own << " tokens behind " << before << ", " << i;
        }
      }
  }
}

// With the tokens' heads side by side, to the bit as with a head's tokens.
TEST(SlateAttention, TakesTokensFirst) {
  constexpr std::size_t heads = 4, kv_heads = 2, tokens = 75;
  std::vector<std::int64_t> groups(tokens);
  std::fill(groups.begin() + 30, groups.end(), 1);
  for (const Table* with : tables())
    for (const std::size_t dim : {6u, 20u, 32u, 72u})
      for (const bool bfloat16 : {false, true}) {
        const auto query = normal(heads * tokens * dim), key = normal(kv_heads * tokens * dim), value = normal(key.size());
        const auto exchanged = [&](const std::vector<float>& from, std::size_t count, bool back) {
          std::vector<float> to(from.size());
          for (std::size_t head = 0; head < count; ++head)
            for (std::size_t token = 0; token < tokens; ++token) {
              const std::size_t by_head = (head * tokens + token) * dim, by_token = (token * count + head) * dim;
              std::copy_n(from.data() + (back ? by_token : by_head), dim, to.data() + (back ? by_head : by_token));
            }
          return to;
        };
        std::vector<float> expected(query.size()), out(query.size());
        attend({query.data(), key.data(), value.data(), nullptr, nullptr, groups.data(), expected.data(), heads, kv_heads, tokens,
                0, dim, 0.2F, bfloat16, 40},
               Serial{}, *with);
        const auto queries = exchanged(query, heads, false), keys = exchanged(key, kv_heads, false),
                   values = exchanged(value, kv_heads, false);
        attend({queries.data(), keys.data(), values.data(), nullptr, nullptr, groups.data(), out.data(), heads, kv_heads, tokens,
                0, dim, 0.2F, bfloat16, 40, true},
               TwoThreads{}, *with);
        EXPECT_EQ(exchanged(out, heads, true), expected) << name_of(*with) << ", head_dim " << dim << ", bfloat16 " << bfloat16;
      }
}

std::vector<std::pair<std::uintptr_t, std::size_t>> layouts;  // address and columns of the keys, in each call

// A vector that crosses two cache lines takes two loads, and with a multiple of 4096 bytes a column's numbers share a cache set.
TEST(SlateAttention, LaysKeysOutForTheCache) {
  Table counted = table();
  layouts.clear();
  counted.attend = [](void* data, std::size_t) {
    const auto& work = *static_cast<const AttentionWork*>(data);
    layouts.emplace_back(reinterpret_cast<std::uintptr_t>(work.keys), work.columns);
  };
  const std::int64_t group = 0;
  std::vector<float> out(counted.lanes);
  for (const std::size_t prefix : {1u, 8u, 1000u, 1008u, 100'000u}) {  // the last is a mapping of its own
    const std::vector<float> x(prefix * counted.lanes);
    attend({x.data(), x.data(), x.data(), x.data(), x.data(), &group, out.data(), 1, 1, 1, prefix, counted.lanes, 1}, Serial{},
           counted);
  }
  EXPECT_EQ(layouts.size(), 5u);
  for (const auto& [keys, columns] : layouts) {
    EXPECT_EQ(keys % 64, 0u);
    EXPECT_EQ(columns % 32, 16u);
  }
}

// All 65536 halves, as the value of a head's only token, which has all the weight.
TEST(SlateAttention, ReadsEveryHalf) {
  constexpr std::size_t heads = 64, dim = 1024;
  std::vector<std::uint16_t> bits(heads * dim);
  std::iota(bits.begin(), bits.end(), std::uint16_t{0});
  const std::vector<std::uint16_t> keys(bits.size());
  const std::vector<float> query(bits.size());
  const std::int64_t group = 0;
  for (const Table* with : tables()) {
    std::vector<float> out(bits.size());
    attend({query.data(), keys.data(), bits.data(), nullptr, nullptr, &group, out.data(), heads, heads, 1, 0, dim, 1}, Serial{},
           *with);
    for (const std::uint16_t half : bits) {
      const float value = to_float(static_cast<Half>(half));
      const bool finite = is_finite(static_cast<Half>(half)), nan = !finite && (half & 0x3ff) != 0;
      ASSERT_TRUE(nan ? std::isnan(out[half]) : out[half] == (finite ? value : std::copysign(INFINITY, value)))
          << name_of(*with) << ", " << half << ": " << out[half];
    }
  }
}

// In a key and a value of the prefix.
TEST(SlateAttention, KeepsNaN) {
  const std::vector<std::int64_t> groups(4);
  for (const Table* with : tables())
    for (const std::size_t dim : {20u, 64u})
      for (const As as : all_kinds)
        for (const bool bfloat16 : {false, true})
          for (const std::size_t at : {0u, 9u, 21u}) {
            const auto query = normal(4 * dim);
            const Numbers own(4, dim, as);
            Numbers past(22, dim, as);
            if (as == As::floats) past.floats[at * dim] = NAN;
            if (as == As::halves) past.halves[at * dim] = 0x7e00;
            std::vector<float> out(4 * dim);
            attend({query.data(), own.stored(), own.stored(), past.stored(), past.stored(), groups.data(), out.data(), 1, 1, 4,
                    22, dim, 1, bfloat16},
                   Serial{}, *with);
            for (const float number : out)
              ASSERT_TRUE(std::isnan(number))
                  << name_of(*with) << ", head_dim " << dim << ", bfloat16 " << bfloat16 << name_of(as);
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
              for (std::size_t at = 0; at < all.size(); at += tokens * dim)
                rows.insert(rows.end(), all.begin() + at + begin * dim, all.begin() + at + end * dim);
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
            EXPECT_EQ(grown, part(whole, past, tokens))
                << name_of(*with) << ", head_dim " << dim << ", " << past << " past, bfloat16 " << bfloat16 << name_of(as);
          }
        }
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

// x / sqrt(mean(x^2) + 1e-5) * weight, row by row.
std::vector<double> normalized(const std::vector<float>& x, const std::vector<float>& weight) {
  std::vector<double> y(x.begin(), x.end());
  for (std::size_t begin = 0; begin < y.size(); begin += weight.size()) {
    double* row = y.data() + begin;
    const double squares = std::inner_product(row, row + weight.size(), row, 0.0);
    const double norm = std::sqrt(squares / static_cast<double>(weight.size()) + 1e-5);
    for (std::size_t i = 0; i < weight.size(); ++i) row[i] = row[i] / norm * weight[i];
  }
  return y;
}

// (x + residual - mean) / sqrt(variance + 1e-5) * weight + bias, row by row.
std::vector<double> layer_norm(const std::vector<float>& x, const std::vector<float>& residual, const std::vector<float>& weight,
                               const std::vector<float>& bias) {
  const std::size_t width = weight.size();
  std::vector<double> y(x.size());
  for (std::size_t begin = 0; begin < y.size(); begin += width) {
    double mean = 0, variance = 0;
    for (std::size_t i = begin; i < begin + width; ++i) y[i] = double{x[i]} + residual[i];
    for (std::size_t i = begin; i < begin + width; ++i) mean += y[i] / static_cast<double>(width);
    for (std::size_t i = begin; i < begin + width; ++i) variance += (y[i] - mean) * (y[i] - mean) / static_cast<double>(width);
    for (std::size_t i = begin; i < begin + width; ++i)
      y[i] = (y[i] - mean) / std::sqrt(variance + 1e-5) * weight[i - begin] + bias[i - begin];
  }
  return y;
}

constexpr Activation activations[] = {Activation::silu, Activation::gelu, Activation::gelu_tanh};

double activated(Activation activation, double x) {
  if (activation == Activation::gelu) return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  if (activation == Activation::gelu_tanh) return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  return x / (1 + std::exp(-x));
}

double gated(double gate, double up) { return activated(Activation::silu, gate) * up; }

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
  std::vector<float> weight{other.begin(), other.begin() + static_cast<std::ptrdiff_t>(width)};
  std::vector<std::uint16_t> bits = std::vector<std::uint16_t>(rows * width);
  RoundedRows rounded{bits.data(), rows, width};
};

TEST_P(Rows, AreQuantizedAlsoAfterANormOrAGate) {
  for (const Table* with : tables()) {
    quantize_rows(x.data(), out, TwoThreads{}, *with);
    expect_quantized({x.begin(), x.end()}, width, values, scales);
    EXPECT_EQ(values[0], 128);
    rms_norm_quantize_rows(x.data(), weight.data(), 1e-5F, out, TwoThreads{}, *with);
    expect_quantized(normalized(x, weight), width, values, scales);
    std::vector<double> expected(x.size());
    for (const Activation activation : activations) {
      if (width <= 3 && activation != Activation::silu) continue;  // 1 + erf(x) cancels: exact beside a row's larger numbers
      for (std::size_t i = 0; i < x.size(); ++i)
        expected[i] = activated(activation, double{x[i]} * scale[i / width]) * other[i] * scale[i / width];
      gated_quantize_rows(activation, x.data(), other.data(), scale.data(), out, TwoThreads{}, *with);
      expect_quantized(expected, width, values, scales);
      const float* factor = width > 3 ? weight.data() : nullptr;  // a small one may leave a narrow row what cancels
      for (std::size_t i = 0; i < x.size(); ++i)
        expected[i] = activated(activation, x[i]) * (factor == nullptr ? 1 : factor[i % width]);
      activate_quantize_rows(activation, x.data(), factor, out, TwoThreads{}, *with);
      expect_quantized(expected, width, values, scales);
    }
  }
}

TEST_P(Rows, AreQuantizedAfterALayerNorm) {
  const std::vector<float> bias = normal(width), factor = normal(width), zeros(x.size());
  std::vector<float> y(x.size());
  if (width == 1) return;  // a number less its mean
  for (const Table* with : tables())
    for (const bool whole : {false, true}) {
      const std::vector<float>& residual = whole ? other : zeros;
      std::vector<double> expected = layer_norm(x, residual, weight, bias);
      layer_norm_quantize_rows({x.data(), whole ? residual.data() : nullptr, weight.data(), bias.data(),
                                whole ? factor.data() : nullptr, 1e-5F, whole ? y.data() : nullptr},
                               out, TwoThreads{}, *with);
      for (std::size_t i = 0; whole && i < y.size(); ++i) {
        ASSERT_NEAR(y[i], expected[i], 1e-5 * (1 + std::fabs(expected[i]))) << i;
        expected[i] *= factor[i % width];
      }
      expect_quantized(expected, width, values, scales);
    }
}

// NaN and infinity must not become ordinary numbers, which would hide a failure.
TEST_P(Rows, KeepNaN) {
  const std::uint32_t least_nan_bits = 0x7f800001;
  float least_nan;
  std::memcpy(&least_nan, &least_nan_bits, sizeof least_nan);
  const std::vector<float> ones(width, 1);
  for (const Table* with : tables())
    for (const float lost : {std::nanf(""), -std::nanf(""), least_nan, INFINITY, -INFINITY})
      for (const std::size_t at : {width, width + width / 2, 2 * width - 1, rows * width - 1}) {
        const float before = x[at];
        x[at] = lost;
        // `number`: a row's scale, or its number in the lost column.
        const auto expect_lost = [&](const char* what, const auto& number) {
          for (std::size_t row = 0; row < rows; ++row)
            EXPECT_EQ(std::isfinite(number(row)), row != at / width)
                << what << ", " << name_of(*with) << ", " << row << ", " << at;
        };
        const auto scale_of_row = [&](std::size_t row) { return scales[row]; };
        const auto rounded_number = [&](std::size_t row) { return from_bfloat16(bits[row * width + at % width]); };
        quantize_rows(x.data(), out, Serial{}, *with);
        expect_lost("quantize", scale_of_row);
        rms_norm_quantize_rows(x.data(), ones.data(), 1e-5F, out, Serial{}, *with);
        expect_lost("normalize and quantize", scale_of_row);
        for (const Activation activation : activations) {
          gated_quantize_rows(activation, x.data(), other.data(), scale.data(), out, Serial{}, *with);
          expect_lost("gate and quantize", scale_of_row);
          activate_quantize_rows(activation, x.data(), nullptr, out, Serial{}, *with);
          if (lost != -INFINITY) expect_lost("activate and quantize", scale_of_row);
        }
        layer_norm_quantize_rows({x.data(), nullptr, ones.data(), ones.data(), nullptr, 1e-5F, nullptr}, out, Serial{}, *with);
        expect_lost("LayerNorm and quantize", scale_of_row);
        round_rows(x.data(), rounded, Serial{}, *with);
        expect_lost("round", rounded_number);
        EXPECT_EQ(std::isnan(from_bfloat16(bits[at])), std::isnan(lost));
        rms_norm_round_rows(x.data(), ones.data(), 1e-5F, rounded, Serial{}, *with);
        expect_lost("normalize and round", rounded_number);
        swiglu_round_rows(x.data(), x.data(), rounded, Serial{}, *with);
        expect_lost("gate and round", rounded_number);
        x[at] = before;
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

TEST_P(Rows, AreScaledAndAddedInPlace) {
  for (const Table* with : tables()) {
    for (const std::size_t step : {width, std::size_t{0}}) {
      std::vector<float> product = x;
      scale_add_rows(product.data(), scale.data(), {other.data(), step}, product.data(), rows, width, TwoThreads{}, *with);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = double{x[i]} * scale[i / width] + other[i / width * step + i % width];
        ASSERT_NEAR(product[i], expected, 1e-5 * (1 + std::fabs(expected))) << i;
      }
    }
  }
}

std::uint16_t bfloat16_bits(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// After a norm or a gate, a number halfway between two neighbours may go to either.
TEST_P(Rows, AreRoundedToBfloat16AlsoAfterANormOrAGate) {
  x[width] = 1 + 0x1p-8F;  // a tie: to even
  x[2 * width] = 1 + 3 * 0x1p-8F;
  const auto expect_near = [&](std::size_t i, double exact) {
    ASSERT_NEAR(from_bfloat16(bits[i]), exact, std::fabs(exact) * (0x1p-8 + 1e-5) + 1e-30) << i;
  };
  const std::vector<double> normed = normalized(x, weight);
  for (const Table* with : tables()) {
    round_rows(x.data(), rounded, TwoThreads{}, *with);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(bits[i], bfloat16_bits(x[i])) << with->lanes << " lanes, " << x[i];
    EXPECT_EQ(bits[width], 0x3f80);
    EXPECT_EQ(bits[2 * width], 0x3f82);
    rms_norm_round_rows(x.data(), weight.data(), 1e-5F, rounded, TwoThreads{}, *with);
    for (std::size_t i = 0; i < x.size(); ++i) expect_near(i, normed[i]);
    swiglu_round_rows(x.data(), other.data(), rounded, TwoThreads{}, *with);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (x[i] > -80) expect_near(i, gated(x[i], other[i]));
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
    return {x.data(), weight.data(), {add, columns}, out.data(), of.rows, of.depth, of.panels, of.panel};
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

// Norms to the bit as apart, in blocks that end in the middle of a tile.
TEST(Products, OfPanelsAreActivatedOrNormedAsApart) {
  for (const Panels& of : {Panels{1, 2, 1, 16}, {7, 64, 3, 64}, {97, 576, 2, 64}, {550, 64, 1, 48}}) {
    Operands operands(of);
    const std::size_t columns = operands.columns, size = of.rows * columns;
    const std::vector<float> bias = normal(columns), norm_weight = normal(columns), norm_bias = normal(columns);
    for (const Table* with : tables()) {
      std::vector<std::uint16_t> apart(size), out(size);
      std::vector<float> normed_apart(size), normed(size);
      PanelProduct product = operands.product(nullptr);
      product.addend = {bias.data(), 0};
      multiply_panels(product, Serial{}, *with);
      std::vector<float> y = operands.out;
      for (std::size_t i = 0; i < size; ++i) {
        const double expected = y[i] / 2.0 * (1 + std::erf(y[i] / std::sqrt(2.0)));
        apart[i] = bfloat16_bits(static_cast<float>(expected));
      }
      multiply_activate_round_rows(Activation::gelu, product, {out.data(), of.rows, columns}, TwoThreads{}, *with);
      for (std::size_t i = 0; i < size; ++i)
        ASSERT_NEAR(from_bfloat16(out[i]), from_bfloat16(apart[i]), 0.008 * std::fabs(from_bfloat16(apart[i])) + 1e-6);
      std::vector<std::uint8_t> unread(size);
      std::vector<float> unread_scales(of.rows), ones(columns, 1);
      LayerNorm norm{y.data(), operands.residual.data(), norm_weight.data(), norm_bias.data(), ones.data(),
                     1e-5F,    normed_apart.data()};
      layer_norm_quantize_rows(norm, {unread.data(), unread_scales.data(), of.rows, columns}, Serial{}, *with);
      norm.y = normed.data();
      multiply_layer_norm_round_rows(product, norm, {out.data(), of.rows, columns}, TwoThreads{}, *with);
      EXPECT_EQ(normed, normed_apart) << name_of(*with);
      for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(out[i], bfloat16_bits(normed[i])) << name_of(*with) << ", " << i;
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

// To the bit: golden answers come from ONNX Runtime's operators. What is added is another matrix, `out` itself, or a row.
TEST_P(Int8Products, AreExact) {
  for (const Table* with : tables_with_int8())
    for (const int kind : {0, 1, 2, 3}) {
      std::vector<float> out = residual;
      const Addend addends[] = {{}, {residual.data(), columns}, {out.data(), columns}, {weight.scales.data(), 0}};
      multiply_rows(input, weight, columns, addends[kind], out.data(), TwoThreads{}, *with);
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t row = i / columns;
        const float product = weight.product(x.data() + row * depth, depth, i % columns);
        const float addend = kind == 0 ? 0 : kind == 3 ? weight.scales[i % columns] : residual[i];
        ASSERT_EQ(out[i], std::fma(product, scales[row], addend)) << kind << ", " << i;
      }
    }
}

TEST_P(Int8Products, AreGatedAndQuantizedAsApart) {
  std::vector<float> gate_products(rows * columns), up_products(rows * columns);
  for (std::size_t i = 0; i < gate_products.size(); ++i) {
    gate_products[i] = weight.product(x.data() + i / columns * depth, depth, i % columns);
    up_products[i] = up.product(x.data() + i / columns * depth, depth, i % columns);
  }
  for (const Table* with : tables_with_int8()) {
    std::vector<std::uint8_t> values(rows * columns), unfused_values(rows * columns);
    std::vector<float> out_scales(rows), unfused_scales(rows);
    for (const Activation activation : activations) {
      multiply_gated_quantize_rows(activation, input, weight, up, {values.data(), out_scales.data(), rows, columns}, TwoThreads{},
                                   *with);
      gated_quantize_rows(activation, gate_products.data(), up_products.data(), scales.data(),
                          {unfused_values.data(), unfused_scales.data(), rows, columns}, Serial{}, *with);
      EXPECT_EQ(values, unfused_values);
      EXPECT_EQ(out_scales, unfused_scales);
    }
  }
}

// Also where the block's last rows are in no whole tile, and blocks are in no whole task.
TEST_P(Int8Products, AreActivatedOrNormedAsApart) {
  const std::vector<float> bias = normal(columns), factor = normal(columns), norm_weight = normal(columns);
  for (const Table* with : tables_with_int8()) {
    std::vector<float> y(rows * columns), scales_apart(rows), out_scales(rows), normed_apart(y.size()), normed(y.size());
    std::vector<std::uint8_t> apart(y.size()), values(y.size());
    const QuantizedRows expected{apart.data(), scales_apart.data(), rows, columns};
    const QuantizedRows out{values.data(), out_scales.data(), rows, columns};
    multiply_rows(input, weight, columns, {bias.data(), 0}, y.data(), Serial{}, *with);
    for (const Activation activation : activations) {
      activate_quantize_rows(activation, y.data(), factor.data(), expected, Serial{}, *with);
      multiply_activate_quantize_rows(activation, input, weight, bias.data(), factor.data(), out, TwoThreads{}, *with);
      EXPECT_EQ(values, apart);
      EXPECT_EQ(out_scales, scales_apart);
    }
    LayerNorm norm{y.data(), residual.data(), norm_weight.data(), bias.data(), factor.data(), 1e-5F, normed_apart.data()};
    layer_norm_quantize_rows(norm, expected, Serial{}, *with);
    norm.y = normed.data();
    multiply_layer_norm_quantize_rows(input, weight, bias.data(), norm, out, TwoThreads{}, *with);
    EXPECT_EQ(values, apart);
    EXPECT_EQ(out_scales, scales_apart);
    EXPECT_EQ(normed, normed_apart);
  }
}

TEST_P(Int8Products, KeepNaN) {
  for (const Table* with : tables_with_int8()) {
    const std::size_t lost = rows / 2;
    const float scale = std::exchange(scales[lost], NAN);
    std::vector<float> out(rows * columns), out_scales(rows);
    std::vector<std::uint8_t> values(out.size());
    multiply_rows(input, weight, columns, {residual.data(), columns}, out.data(), Serial{}, *with);
    multiply_gated_quantize_rows(Activation::gelu, input, weight, up, {values.data(), out_scales.data(), rows, columns}, Serial{},
                                 *with);
    for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(std::isnan(out[i]), i / columns == lost) << i;
    for (std::size_t row = 0; row < rows; ++row) ASSERT_EQ(std::isnan(out_scales[row]), row == lost) << row;
    scales[lost] = scale;
  }
}

// Every remainder of rows and columns, several blocks and panels, the least depth, and a depth whose sums fill 31 bits.
INSTANTIATE_TEST_SUITE_P(Sizes, Int8Products,
                         testing::Values(Int8Sizes{1, 4, 16}, Int8Sizes{2, 12, 32}, Int8Sizes{3, 8, 48}, Int8Sizes{5, 64, 64},
                                         Int8Sizes{13, 20, 112}, Int8Sizes{49, 32, 176}, Int8Sizes{101, 96, 208},
                                         Int8Sizes{1, 66000, 16}, Int8Sizes{101, 128, 208}, Int8Sizes{16, 192, 48},
                                         Int8Sizes{47, 64, 32}, Int8Sizes{33, 66048, 32}, Int8Sizes{300, 64, 48}));

TEST(InnerProducts, AreTheSameToTheBitWithEveryInstructionSet) {
  for (const std::size_t width : {0, 1, 7, 8, 9, 64, 100}) {
    constexpr std::size_t count = 5;
    const std::vector<float> x = normal(width);
    std::vector<float> rows(count * width);
    std::vector<std::uint16_t> halves(rows.size());  // every kind of finite one
    for (std::size_t i = 0; i < rows.size(); ++i) {
      halves[i] = static_cast<std::uint16_t>((i * 31 + width) * 2011 & 0xbbff);
      rows[i] = from_half(halves[i]);
    }
    for (const Table* with : tables()) {
      std::vector<double> products(count), of_halves(count);
      with->inner_products(x.data(), rows.data(), count, width, products.data());
      with->half_products(x.data(), halves.data(), count, width, of_halves.data());
      EXPECT_EQ(of_halves, products) << with->lanes << " lanes, width " << width;
      for (const std::uint16_t infinite : {0x7c00, 0xfc00, 0x7e00}) {
        if (width == 0) continue;
        std::vector<std::uint16_t> damaged = halves;
        damaged[2 * width + width / 2] = infinite;
        with->half_products(std::vector<float>(width).data(), damaged.data(), count, width, of_halves.data());
        for (std::size_t row = 0; row < count; ++row) EXPECT_EQ(std::isfinite(of_halves[row]), row != 2);
      }
      for (std::size_t row = 0; row < count; ++row) {
        double sums[8] = {};
        const std::size_t whole = width / 8 * 8;
        for (std::size_t i = 0; i < width; ++i)
          sums[i < whole ? i % 8 : 0] += static_cast<double>(x[i]) * static_cast<double>(rows[row * width + i]);
        const double sum = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
        ASSERT_EQ(products[row], sum) << with->lanes << " lanes, width " << width << ", row " << row;
      }
    }
  }
}

TEST(Kernels, TakeNothing) {
  attend({nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 4, 2, 0, 0, 16, 1}, Serial{});
  multiply_panels(Operands({0, 2, 1, 16}).product(nullptr), Serial{});
  for (const Table* with : tables_with_int8()) {
    multiply_rows({nullptr, nullptr, 0, 8}, {}, 16, {}, nullptr, Serial{}, *with);
    multiply_gated_quantize_rows(Activation::silu, {nullptr, nullptr, 0, 8}, {}, {}, {nullptr, nullptr, 0, 16}, Serial{}, *with);
  }
}

}  // namespace
}  // namespace rexit::core::kernels

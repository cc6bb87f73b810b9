// The tasks of a slate's attention, for any vector width W. See slate_attention.hpp.
#pragma once

#include <cfloat>

#include "kernels/attention/slate_attention.hpp"
#include "kernels/lanes.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

// Shared by all tasks. Keys are packed as columns, [kv_heads, dim, columns]: the prefix's, then the slate's, without a gap, so
// that scores of a prefix fall into the same lanes whether or not its start is past. Values stay [kv_heads, tokens, dim]; halves,
// int8 and what is rounded to bfloat16 are converted once for all blocks.
struct AttentionWork {
  const SlateAttention& of;
  std::size_t shared;         // query heads per key head
  std::size_t block_tokens;   // tokens per block
  std::size_t blocks;         // per key head
  std::size_t columns;        // including a vector's width of padding; see odd_lines
  std::size_t packs;          // packing tasks per key head
  const std::size_t* begins;  // [tokens]: the first token of a token's candidate
  float* keys;
  float *past_values, *values;         // converted; null: the values are used as they are
  const std::size_t* pairs = nullptr;  // [tokens]: the first pair of a token's candidate, for attention_pairs.hpp
};

// Columns per packing task. It transposes and scales keys; columns after the slate's are 0.
constexpr std::size_t pack_columns = 64;

// A row length, in floats, such that rows start in different cache sets. With a multiple of 4096 bytes all rows would compete for
// the same set.
REXIT_INLINE constexpr std::size_t odd_lines(std::size_t floats) {
  constexpr std::size_t line = 16;
  return ((floats + line - 1) / line | 1) * line;
}

// Rows of `dim` numbers of type T. A call loads W numbers of a row, from column `at`, as floats.
template <int W, class T>
struct StoredRows {
  const T* numbers;
  std::size_t dim;

  REXIT_INLINE typename Lanes<W>::Floats operator()(std::size_t row, std::size_t at) const {
    return Lanes<W>::load(numbers + row * dim + at);
  }
};

template <int W>
struct StoredRows<W, std::int8_t> {
  const std::int8_t* numbers;
  std::size_t dim;

  REXIT_INLINE typename Lanes<W>::Floats operator()(std::size_t row, std::size_t at) const {
    const std::int8_t* from = numbers + row * (dim + 1);
    return Lanes<W>::load(from + at) * Lanes<W>::all(scale_of(from[dim]));
  }
};

// `x` as the products read it.
template <int W>
REXIT_INLINE typename Lanes<W>::Floats operand(const SlateAttention& of, typename Lanes<W>::Floats x) {
  return of.bfloat16 ? Lanes<W>::to_bfloat16(x) : x;
}

// Calls `body` with the StoredRows of the numbers' type.
template <int W, class Body>
REXIT_INLINE void visit(const Stored& stored, std::size_t dim, const Body& body) {
  if (stored.halves != nullptr) {
    body(StoredRows<W, std::uint16_t>{stored.halves, dim});
  } else if (stored.bytes != nullptr) {
    body(StoredRows<W, std::int8_t>{stored.bytes, dim});
  } else {
    body(StoredRows<W, float>{stored.floats, dim});
  }
}

// Packs W columns, `count` of them keys: `key(c, at)` loads W numbers of column c, from row `at`.
template <int W, class Key>
REXIT_INLINE void pack_square(const AttentionWork& work, std::size_t count, float* to, const Key& key) {
  using L = Lanes<W>;
  const std::size_t dim = work.of.dim;
  for (std::size_t d = 0; d < dim; d += W) {
    const std::size_t at = smaller_of(d, dim - W);  // the last square may overlap the previous one
    typename L::Floats square[W];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < W; ++c) square[c] = c < count ? operand<W>(work.of, key(c, at)) : typename L::Floats{};
    transpose<W>(square);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < W; ++i) L::store(to + (at + i) * work.columns, square[i] * L::all(work.of.scale));
  }
}

// Rows [first, first + count) as floats; dim >= W.
template <int W>
REXIT_INLINE void convert(const SlateAttention& of, const Stored& stored, std::size_t first, std::size_t count, float* to) {
  const std::size_t dim = of.dim;
  visit<W>(stored, dim, [&](const auto& rows) __attribute__((always_inline)) {
    for (std::size_t row = first; row < first + count; ++row)
      for (std::size_t d = 0; d < dim; d += W) {
        const std::size_t at = smaller_of(d, dim - W);  // the last vector may overlap the previous one
        Lanes<W>::store(to + row * dim + at, operand<W>(of, rows(row, at)));
      }
  });
}

// Packs `pack_columns` columns of keys, and converts the values of the same tokens if necessary.
template <int W>
REXIT_INLINE void pack(const AttentionWork& work, std::size_t task) {
  using L = Lanes<W>;
  const SlateAttention& of = work.of;
  const std::size_t head = task / work.packs, first = task % work.packs * pack_columns;
  for (std::size_t column = first; column < smaller_of(work.columns, first + pack_columns); column += W) {
    float* to = work.keys + head * of.dim * work.columns + column;
    if (column < of.prefix && column + W > of.prefix) {
      const std::size_t past = of.prefix - column;
      pack_square<W>(work, smaller_of(W, past + of.tokens), to,
                     [&](std::size_t c, std::size_t at) __attribute__((always_inline)) {
                       const Stored& stored = c < past ? of.past_key : of.key;
                       const std::size_t row = c < past ? head * of.prefix + column + c : head * of.tokens + c - past;
                       typename L::Floats part;
                       visit<W>(stored, of.dim, [&](const auto& keys) __attribute__((always_inline)) { part = keys(row, at); });
                       return part;
                     });
      continue;
    }
    const bool past = column < of.prefix;
    const std::size_t tokens = past ? of.prefix : of.tokens, token = smaller_of(past ? column : column - of.prefix, tokens);
    const std::size_t row = head * tokens + token;
    visit<W>(past ? of.past_key : of.key, of.dim, [&](const auto& keys) __attribute__((always_inline)) {
      pack_square<W>(work, smaller_of(W, tokens - token), to,
                     [&](std::size_t c, std::size_t at) __attribute__((always_inline)) { return keys(row + c, at); });
    });
  }
  const std::size_t end = smaller_of(first + pack_columns, of.prefix + of.tokens);
  if (work.past_values != nullptr && first < of.prefix)
    convert<W>(of, of.past_value, head * of.prefix + first, smaller_of(end, of.prefix) - first, work.past_values);
  const std::size_t begin = larger_of(first, of.prefix);
  if (work.values != nullptr && begin < end)
    convert<W>(of, of.value, head * of.tokens + begin - of.prefix, end - begin, work.values);
}

// Softmax over the first `visible` scores, without the division. The others, up to `width` rounded up to whole vectors, become 0.
// Returns the sum.
template <int W>
REXIT_INLINE float exponentiate(const SlateAttention& of, float* scores, std::size_t visible, std::size_t width) {
  using L = Lanes<W>;
  constexpr float lowest = -FLT_MAX;
  for (std::size_t c = visible; c < round_up(width, W); ++c) scores[c] = lowest;
  typename L::Floats maxima = L::all(lowest), sum{};
  for (std::size_t c = 0; c < width; c += W) maxima = L::larger(maxima, L::load(scores + c));
  const typename L::Floats maximum = L::all(L::largest(maxima));
  for (std::size_t c = 0; c < width; c += W) {
    const typename L::Floats x = L::load(scores + c) - maximum;
    const typename L::Floats e = of.bfloat16 ? L::exp2(x * L::all(log2_e)) : L::exp(x);
    L::store(scores + c, operand<W>(of, e));
    sum += e;
  }
  return L::sum(sum);
}

// Calls `body(first, last, row, count)` for every candidate's part of the block: [first, last) are the keys visible to some token
// of the part, and its `count` rows begin at `row`.
template <class Body>
REXIT_INLINE void for_each_candidate(const AttentionWork& work, std::size_t begin, std::size_t end, const Body& body) {
  for (std::size_t from = begin, to = begin; from < end; from = to) {
    const std::size_t first = work.begins[from];
    while (to < end && work.begins[to] == first) ++to;
    body(first, to, (from - begin) * work.shared, (to - from) * work.shared);
  }
}

template <int W, int V>
REXIT_INLINE void attend_block(const AttentionWork& work, std::size_t task) {
  const SlateAttention& of = work.of;
  const std::size_t head = task / work.blocks, begin = task % work.blocks * work.block_tokens;
  const std::size_t end = smaller_of(of.tokens, begin + work.block_tokens), rows = (end - begin) * work.shared;
  std::size_t longest = 0;
  for (std::size_t t = begin; t < end; ++t) longest = larger_of(longest, t - work.begins[t] + 1);
  const std::size_t stride = round_up(of.prefix + round_up(longest, W), W), width = round_up(of.dim, W);
  float* scores = scratch_floats(rows * (stride + width + 1 + (of.bfloat16 ? of.dim : 0)));
  float* mixed = scores + rows * stride;
  float* sums = mixed + rows * width;
  float* rounded = sums + rows;
  const float** queries = scratch_rows(3 * rows);
  const float** prefix_scores = queries + rows;
  const float** candidate_scores = prefix_scores + rows;
  // A row per token and query head; the heads of a token are adjacent.
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    queries[r] = of.query + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    if (of.bfloat16) {
      for (std::size_t d = 0; d < of.dim; d += W) {
        const std::size_t at = smaller_of(d, of.dim - W);  // the last vector may overlap the previous one
        Lanes<W>::store(rounded + r * of.dim + at, Lanes<W>::to_bfloat16(Lanes<W>::load(queries[r] + at)));
      }
      queries[r] = rounded + r * of.dim;
    }
    prefix_scores[r] = scores + r * stride;
    candidate_scores[r] = prefix_scores[r] + of.prefix;
  }

  const float* keys = work.keys + head * of.dim * work.columns;
  // In whole vectors: the scores after the prefix are overwritten below.
  if (of.prefix != 0) multiply<W, V>(queries, rows, keys, work.columns, of.dim, round_up(of.prefix, W), scores, stride, false);
  for_each_candidate(work, begin, end,
                     [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
                       const std::size_t columns = round_up(last - first, W);
                       multiply<W, V>(queries + row, count, keys + of.prefix + first, work.columns, of.dim, columns,
                                      scores + row * stride + of.prefix, stride, false);
                       for (std::size_t r = row; r < row + count; ++r) {
                         const std::size_t visible = begin + r / work.shared - first + 1;
                         sums[r] = exponentiate<W>(of, scores + r * stride, of.prefix + visible, of.prefix + columns);
                       }
                     });
  const float* past_values = (work.past_values != nullptr ? work.past_values : of.past_value.floats) + head * of.prefix * of.dim;
  const float* values = (work.values != nullptr ? work.values : of.value.floats) + head * of.tokens * of.dim;
  multiply<W, V>(prefix_scores, rows, past_values, of.dim, of.prefix, of.dim, mixed, width, false);
  for_each_candidate(work, begin, end,
                     [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
                       multiply<W, V>(candidate_scores + row, count, values + first * of.dim, of.dim, last - first, of.dim,
                                      mixed + row * width, width, true);
                     });
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    float* out = of.out + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    for (std::size_t d = 0; d < of.dim; ++d) out[d] = mixed[r * width + column_of<W>(d, of.dim)] / sums[r];
  }
}

}  // namespace rexit::core::kernels

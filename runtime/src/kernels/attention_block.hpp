// The tasks of a slate's attention, for any vector width W. See slate_attention.hpp.
#pragma once

#include <cfloat>

#include "kernels/lanes.hpp"
#include "kernels/slate_attention.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

// What all tasks share. Keys are packed as columns, [kv_heads, dim, columns]: the prefix's, then the slate's, without a gap, so
// that the scores of a prefix have the same lanes whether its start is a past or not. Values are read as they are, [kv_heads,
// tokens, dim]; halves and int8 are converted first, once for all blocks.
struct AttentionWork {
  const SlateAttention& of;
  std::size_t shared;         // query heads per key head
  std::size_t block_tokens;   // tokens per block
  std::size_t blocks;         // per key head
  std::size_t columns;        // including a vector's width of slack behind the last; see odd_lines
  std::size_t packs;          // packing tasks per key head
  const std::size_t* begins;  // [tokens]: the first token of each token's candidate
  float* keys;
  float *past_values, *values;  // converted; null if they are floats already
};

// Columns per packing task. Keys are transposed and scaled; columns behind the slate's are 0.
constexpr std::size_t pack_columns = 64;

// A row length, in floats, such that rows start in different sets of the processor's cache. If it were a multiple of 4096 bytes,
// they would all compete for the same set.
REXIT_INLINE constexpr std::size_t odd_lines(std::size_t floats) {
  constexpr std::size_t line = 16;
  return ((floats + line - 1) / line | 1) * line;
}

// Rows of `dim` numbers of type T: W of them from `at` on, as floats.
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

// Calls `body` with the StoredRows of the type that the numbers have.
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

// `count` of W columns; `key(c, at)` is what the one in column c holds from `at` on.
template <int W, class Key>
REXIT_INLINE void pack_square(const AttentionWork& work, std::size_t count, float* to, const Key& key) {
  using L = Lanes<W>;
  const std::size_t dim = work.of.dim;
  for (std::size_t d = 0; d < dim; d += W) {
    const std::size_t at = smaller_of(d, dim - W);  // the last square may overlap the previous one
    typename L::Floats square[W];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < W; ++c) square[c] = c < count ? key(c, at) : typename L::Floats{};
    transpose<W>(square);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < W; ++i) L::store(to + (at + i) * work.columns, square[i] * L::all(work.of.scale));
  }
}

// Rows [first, first + count) as floats; dim >= W.
template <int W>
REXIT_INLINE void convert(const Stored& stored, std::size_t dim, std::size_t first, std::size_t count, float* to) {
  visit<W>(stored, dim, [&](const auto& rows) __attribute__((always_inline)) {
    for (std::size_t row = first; row < first + count; ++row)
      for (std::size_t d = 0; d < dim; d += W) {
        const std::size_t at = smaller_of(d, dim - W);  // the last vector may overlap the previous one
        Lanes<W>::store(to + row * dim + at, rows(row, at));
      }
  });
}

// The keys of `pack_columns` columns; and the values of the same tokens, if they are to be converted.
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
                       typename L::Floats found;
                       visit<W>(stored, of.dim, [&](const auto& keys) __attribute__((always_inline)) { found = keys(row, at); });
                       return found;
                     });
      continue;
    }
    const bool past = column < of.prefix;
    const std::size_t all = past ? of.prefix : of.tokens, before = smaller_of(past ? column : column - of.prefix, all);
    const std::size_t row = head * all + before;
    visit<W>(past ? of.past_key : of.key, of.dim, [&](const auto& keys) __attribute__((always_inline)) {
      pack_square<W>(work, smaller_of(W, all - before), to,
                     [&](std::size_t c, std::size_t at) __attribute__((always_inline)) { return keys(row + c, at); });
    });
  }
  const std::size_t end = smaller_of(first + pack_columns, of.prefix + of.tokens);
  if (work.past_values != nullptr && first < of.prefix)
    convert<W>(of.past_value, of.dim, head * of.prefix + first, smaller_of(end, of.prefix) - first, work.past_values);
  const std::size_t begin = larger_of(first, of.prefix);
  if (work.values != nullptr && begin < end)
    convert<W>(of.value, of.dim, head * of.tokens + begin - of.prefix, end - begin, work.values);
}

// Softmax over the first `seen` scores, without the division. All others up to `width`, rounded up to whole vectors, become 0.
// Returns the sum.
template <int W>
REXIT_INLINE float exponentials(float* scores, std::size_t seen, std::size_t width) {
  using L = Lanes<W>;
  constexpr float lowest = -FLT_MAX;
  for (std::size_t c = seen; c < round_up(width, W); ++c) scores[c] = lowest;
  typename L::Floats most = L::all(lowest), sum{};
  for (std::size_t c = 0; c < width; c += W) most = L::larger(most, L::load(scores + c));
  const typename L::Floats top = L::all(L::largest(most));
  for (std::size_t c = 0; c < width; c += W) {
    const typename L::Floats e = L::exp(L::load(scores + c) - top);
    L::store(scores + c, e);
    sum += e;
  }
  return L::sum(sum);
}

// Calls `body(first, last, row, count)` for each candidate's part of the block: the keys [first, last) that some token of the
// part sees, and its `count` rows from `row` on.
template <class Body>
REXIT_INLINE void each_run(const AttentionWork& work, std::size_t begin, std::size_t end, const Body& body) {
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
  std::size_t most = 0;
  for (std::size_t t = begin; t < end; ++t) most = larger_of(most, t - work.begins[t] + 1);
  const std::size_t stride = round_up(of.prefix + round_up(most, W), W), width = round_up(of.dim, W);
  float* scores = scratch_floats(rows * (stride + width + 1));
  float* mixed = scores + rows * stride;
  float* sums = mixed + rows * width;
  const float** queries = scratch_rows(3 * rows);
  const float** to_prefix = queries + rows;
  const float** to_own = to_prefix + rows;
  // One row per token and query head, the heads of one token next to each other.
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    queries[r] = of.query + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    to_prefix[r] = scores + r * stride;
    to_own[r] = to_prefix[r] + of.prefix;
  }

  const float* keys = work.keys + head * of.dim * work.columns;
  // Whole vectors: what is beyond the prefix is overwritten below.
  if (of.prefix != 0) multiply<W, V>(queries, rows, keys, work.columns, of.dim, round_up(of.prefix, W), scores, stride, false);
  each_run(work, begin, end,
           [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
             const std::size_t seen_by_any = round_up(last - first, W);
             multiply<W, V>(queries + row, count, keys + of.prefix + first, work.columns, of.dim, seen_by_any,
                            scores + row * stride + of.prefix, stride, false);
             for (std::size_t r = row; r < row + count; ++r) {
               const std::size_t seen = begin + r / work.shared - first + 1;
               sums[r] = exponentials<W>(scores + r * stride, of.prefix + seen, of.prefix + seen_by_any);
             }
           });
  const float* past_values = (work.past_values != nullptr ? work.past_values : of.past_value.floats) + head * of.prefix * of.dim;
  const float* values = (work.values != nullptr ? work.values : of.value.floats) + head * of.tokens * of.dim;
  multiply<W, V>(to_prefix, rows, past_values, of.dim, of.prefix, of.dim, mixed, width, false);
  each_run(work, begin, end,
           [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
             multiply<W, V>(to_own + row, count, values + first * of.dim, of.dim, last - first, of.dim, mixed + row * width,
                            width, true);
           });
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    float* out = of.out + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    for (std::size_t d = 0; d < of.dim; ++d) out[d] = mixed[r * width + column_of<W>(d, of.dim)] / sums[r];
  }
}

}  // namespace rexit::core::kernels

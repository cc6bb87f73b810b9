// The tasks of a slate's attention, for any vector width W. See slate_attention.hpp.
#pragma once

#include <cfloat>

#include "kernels/lanes.hpp"
#include "kernels/slate_attention.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

// What all tasks share. Keys are packed as columns, [kv_heads, dim, columns]: the prefix's, padded to whole vectors, then the
// slate's. Values are read as they are, [kv_heads, prefix, dim]; the prefix's halves are converted first, once for all blocks.
struct AttentionWork {
  const SlateAttention& of;
  std::size_t shared;         // query heads per key head
  std::size_t block_tokens;   // tokens per block
  std::size_t blocks;         // per key head
  std::size_t own;            // the column of the slate's first key
  std::size_t columns;        // including a vector's width of slack behind the last; see odd_lines
  std::size_t packs;          // packing tasks per key head
  const std::size_t* begins;  // [tokens]: the first token of each token's candidate
  float* keys;
  float* values;  // the prefix's, if they are halves
};

// Columns per packing task. Keys are transposed and scaled; columns between the prefix's and the slate's, and behind those, are
// 0.
constexpr std::size_t pack_columns = 64;

// A row length, in floats, such that rows start in different sets of the processor's cache. If it were a multiple of 4096 bytes,
// they would all compete for the same set.
REXIT_INLINE constexpr std::size_t odd_lines(std::size_t floats) {
  constexpr std::size_t line = 16;
  return ((floats + line - 1) / line | 1) * line;
}

template <int W, class Number>
REXIT_INLINE void pack_columns_of(const AttentionWork& work, const Number* keys, std::size_t count, float* to) {
  using L = Lanes<W>;
  const std::size_t dim = work.of.dim;
  for (std::size_t d = 0; d < dim; d += W) {
    const std::size_t at = smaller_of(d, dim - W);  // the last square may overlap the previous one
    typename L::Floats square[W];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < W; ++c) square[c] = c < count ? L::load(keys + c * dim + at) : typename L::Floats{};
    transpose<W>(square);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < W; ++i) L::store(to + (at + i) * work.columns, square[i] * L::all(work.of.scale));
  }
}

// The keys of `pack_columns` columns; and the values of the tokens of the prefix among them, if they are to be converted.
template <int W>
REXIT_INLINE void pack(const AttentionWork& work, std::size_t task) {
  using L = Lanes<W>;
  const SlateAttention& of = work.of;
  const std::size_t head = task / work.packs, first = task % work.packs * pack_columns;
  for (std::size_t column = first; column < smaller_of(work.columns, first + pack_columns); column += W) {
    const bool past = column < work.own;
    const std::size_t all = past ? of.prefix : of.tokens, before = smaller_of(past ? column : column - work.own, all);
    const std::size_t count = smaller_of(W, all - before), from = (head * all + before) * of.dim;
    float* to = work.keys + head * of.dim * work.columns + column;
    if (past && of.past_key.halves != nullptr) {
      pack_columns_of<W>(work, of.past_key.halves + from, count, to);
    } else {
      pack_columns_of<W>(work, (past ? of.past_key.floats : of.key) + from, count, to);
    }
  }
  if (of.past_value.halves == nullptr || first >= of.prefix) return;
  const std::size_t from = (head * of.prefix + first) * of.dim, count = smaller_of(pack_columns, of.prefix - first) * of.dim;
  for (std::size_t i = 0; i < count; i += W) {
    const std::size_t at = from + smaller_of(i, count - W);  // the last vector may overlap the previous one
    L::store(work.values + at, L::load(of.past_value.halves + at));
  }
}

// Softmax over scores [0, prefix) and [own, own + seen), without the division. All others up to `width` become 0. Returns the
// sum.
template <int W>
REXIT_INLINE float exponentials(float* scores, std::size_t prefix, std::size_t own, std::size_t seen, std::size_t width) {
  using L = Lanes<W>;
  constexpr float lowest = -FLT_MAX;
  for (std::size_t c = prefix; c < own; ++c) scores[c] = lowest;
  for (std::size_t c = own + seen; c < width; ++c) scores[c] = lowest;
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
  const std::size_t stride = work.own + round_up(most, W), width = round_up(of.dim, W);
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
    to_own[r] = to_prefix[r] + work.own;
  }

  const float* keys = work.keys + head * of.dim * work.columns;
  multiply<W, V>(queries, rows, keys, work.columns, of.dim, work.own, scores, stride, false);
  each_run(work, begin, end,
           [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
             const std::size_t seen_by_any = round_up(last - first, W);
             multiply<W, V>(queries + row, count, keys + work.own + first, work.columns, of.dim, seen_by_any,
                            scores + row * stride + work.own, stride, false);
             for (std::size_t r = row; r < row + count; ++r) {
               const std::size_t seen = begin + r / work.shared - first + 1;
               sums[r] = exponentials<W>(scores + r * stride, of.prefix, work.own, seen, work.own + seen_by_any);
             }
           });
  const float* past_values = (of.past_value.halves != nullptr ? work.values : of.past_value.floats) + head * of.prefix * of.dim;
  multiply<W, V>(to_prefix, rows, past_values, of.dim, of.prefix, of.dim, mixed, width, false);
  each_run(work, begin, end,
           [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
             multiply<W, V>(to_own + row, count, of.value + (head * of.tokens + first) * of.dim, of.dim, last - first, of.dim,
                            mixed + row * width, width, true);
           });
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    float* out = of.out + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    for (std::size_t d = 0; d < of.dim; ++d) out[d] = mixed[r * width + column_of<W>(d, of.dim)] / sums[r];
  }
}

}  // namespace rexit::core::kernels

// One block of a slate's attention, for any width of vectors. See slate_attention.hpp.
#pragma once

#include <cfloat>

#include "kernels/lanes.hpp"
#include "kernels/scratch.hpp"
#include "kernels/slate_attention.hpp"

namespace rexit::core::kernels {

// What the blocks share. Keys stand as columns, [kv_heads, dim, columns]: the prefix, padded to whole vectors, then the slate.
struct Plan {
  const SlateAttention& of;
  std::size_t shared;         // query heads with the same keys
  std::size_t block_tokens;   // tokens of a block
  std::size_t blocks;         // of each key head
  std::size_t own;            // the column of the slate's first key
  std::size_t columns;        // with a vector's width to read beyond the last; see odd_lines
  std::size_t packs;          // tasks that turn keys, of each key head
  const std::size_t* begins;  // [tokens]: the first token of each token's candidate
  float* keys;
};

// Keys of a pack: the prefix's or the slate's, transposed and scaled. What stands between the two and behind them is 0.
constexpr std::size_t pack_columns = 64;

// Rows of so many floats that they start in different sets of the processor's cache, whatever their number: at a multiple of 4096
// bytes all of them would share one.
REXIT_INLINE constexpr std::size_t odd_lines(std::size_t floats) {
  constexpr std::size_t line = 16;
  return ((floats + line - 1) / line | 1) * line;
}

template <int W>
REXIT_INLINE void pack_keys(const Plan& plan, std::size_t task) {
  using L = Lanes<W>;
  const SlateAttention& of = plan.of;
  const std::size_t head = task / plan.packs, first = task % plan.packs * pack_columns;
  for (std::size_t column = first; column < smaller_of(plan.columns, first + pack_columns); column += W) {
    const bool past = column < plan.own;
    const std::size_t all = past ? of.prefix : of.tokens, before = smaller_of(past ? column : column - plan.own, all);
    const std::size_t count = smaller_of(W, all - before);
    const float* keys = (past ? of.past_key : of.key) + (head * all + before) * of.dim;
    float* to = plan.keys + head * of.dim * plan.columns + column;
    for (std::size_t d = 0; d < of.dim; d += W) {
      const std::size_t at = smaller_of(d, of.dim - W);  // the last square may overlap the one before
      typename L::Floats square[W];
#pragma GCC unroll 16
      for (std::size_t c = 0; c < W; ++c) square[c] = c < count ? L::load(keys + c * of.dim + at) : typename L::Floats{};
      transpose<W>(square);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < W; ++i) L::store(to + (at + i) * plan.columns, square[i] * L::all(of.scale));
    }
  }
}

// Softmax over scores [0, prefix) and [own, own + seen), without the division. What lies between and behind, up to `width`,
// becomes 0. Returns the sum.
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

// Calls `body(first, last, row, count)` for what each candidate has of the block: its keys [first, last), as far as anyone in the
// block may see them, and its rows.
template <class Body>
REXIT_INLINE void each_run(const Plan& plan, std::size_t begin, std::size_t end, const Body& body) {
  for (std::size_t from = begin, to = begin; from < end; from = to) {
    const std::size_t first = plan.begins[from];
    while (to < end && plan.begins[to] == first) ++to;
    body(first, to, (from - begin) * plan.shared, (to - from) * plan.shared);
  }
}

template <int W, int V>
REXIT_INLINE void attend_block(const Plan& plan, std::size_t task) {
  const SlateAttention& of = plan.of;
  const std::size_t head = task / plan.blocks, begin = task % plan.blocks * plan.block_tokens;
  const std::size_t end = smaller_of(of.tokens, begin + plan.block_tokens), rows = (end - begin) * plan.shared;
  std::size_t most = 0;
  for (std::size_t t = begin; t < end; ++t) most = larger_of(most, t - plan.begins[t] + 1);
  const std::size_t stride = plan.own + round_up(most, W), width = round_up(of.dim, W);
  float* scores = scratch_floats(rows * (stride + width + 1));
  float* mixed = scores + rows * stride;
  float* sums = mixed + rows * width;
  const float** queries = scratch_rows(3 * rows);
  const float** to_prefix = queries + rows;
  const float** to_own = to_prefix + rows;
  // A row for each token and, within it, each query head.
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * plan.shared + r % plan.shared;
    queries[r] = of.query + (query_head * of.tokens + begin + r / plan.shared) * of.dim;
    to_prefix[r] = scores + r * stride;
    to_own[r] = to_prefix[r] + plan.own;
  }

  const float* keys = plan.keys + head * of.dim * plan.columns;
  multiply<W, V>(queries, rows, keys, plan.columns, of.dim, plan.own, scores, stride, false);
  each_run(plan, begin, end,
           [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
             const std::size_t seen_by_any = round_up(last - first, W);
             multiply<W, V>(queries + row, count, keys + plan.own + first, plan.columns, of.dim, seen_by_any,
                            scores + row * stride + plan.own, stride, false);
             for (std::size_t r = row; r < row + count; ++r) {
               const std::size_t seen = begin + r / plan.shared - first + 1;
               sums[r] = exponentials<W>(scores + r * stride, of.prefix, plan.own, seen, plan.own + seen_by_any);
             }
           });
  multiply<W, V>(to_prefix, rows, of.past_value + head * of.prefix * of.dim, of.dim, of.prefix, of.dim, mixed, width, false);
  each_run(plan, begin, end,
           [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
             multiply<W, V>(to_own + row, count, of.value + (head * of.tokens + first) * of.dim, of.dim, last - first, of.dim,
                            mixed + row * width, width, true);
           });
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * plan.shared + r % plan.shared;
    float* out = of.out + (query_head * of.tokens + begin + r / plan.shared) * of.dim;
    for (std::size_t d = 0; d < of.dim; ++d) out[d] = mixed[r * width + column_of<W>(d, of.dim)] / sums[r];
  }
}

}  // namespace rexit::core::kernels

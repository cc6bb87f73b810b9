// The tasks of attention_block.hpp with products in bfloat16, for processors that have instructions for them. Scores, the softmax
// and all sums stay float32.
//
// 1. Queries, keys, values and the softmax's numerators are rounded to bfloat16.
// 2. Keys are packed as columns of pairs, [kv_heads, dim / 2, columns]: a pair is two neighbouring numbers of a key.
// 3. Values are packed in rows of pairs, past [kv_heads, prefix / 2, dim], new [kv_heads, tokens, dim]: a pair is the same number
// of two neighbouring tokens. A token sees
//    the prefix and then its candidate, so a candidate's first token belongs to a pair with the prefix's last if the prefix is
//    odd, and no pair has tokens of two candidates. A missing second number is 0. So there are at most as many pairs as tokens.
#pragma once

#include "kernels/attention/attention_block.hpp"
#include "kernels/products/bfloat16_product_block.hpp"

namespace rexit::core::kernels {

// The pairs of a candidate's tokens, including one with the prefix's last token.
REXIT_INLINE constexpr std::size_t candidate_pairs(std::size_t prefix, std::size_t tokens) {
  return (prefix % 2 + tokens + 1) / 2;
}

// Packs keys and values of `pack_columns` tokens.
template <int W>
REXIT_INLINE void pack_pairs(const AttentionWork& work, std::size_t task) {
  using L = Lanes<W>;
  using P = Bfloat16Pairs<W>;
  const SlateAttention& of = work.of;
  const std::size_t head = task / work.packs, first = task % work.packs * pack_columns, dim = of.dim;
  const std::size_t known = of.prefix + of.tokens;
  // Calls body(rows, row) with the numbers of a token in the sequence of prefix and slate.
  const auto with_row = [&](const Stored& past, const Stored& own, std::size_t at,
                            const auto& body) __attribute__((always_inline)) {
    const bool is_past = at < of.prefix;
    const std::size_t row = is_past ? head * of.prefix + at : head * of.tokens + at - of.prefix;
    visit<W>(is_past ? past : own, dim, [&](const auto& rows) __attribute__((always_inline)) { body(rows, row); });
  };

  float* keys = work.keys + head * (dim / 2) * work.columns;
  for (std::size_t column = first; column < smaller_of(work.columns, first + pack_columns); column += W)
    for (std::size_t d = 0; d < dim; d += 2 * W) {
      const std::size_t at = smaller_of(d, dim - 2 * W);  // the last square may overlap the previous one
      typename L::Floats square[W];
#pragma GCC unroll 16
      for (std::size_t c = 0; c < W; ++c) {
        square[c] = typename L::Floats{};
        if (column + c < known)
          with_row(of.past_key, of.key, column + c, [&](const auto& rows, std::size_t row) __attribute__((always_inline)) {
            square[c] = P::join(rows(row, at), rows(row, at + W));
          });
      }
      transpose<W>(square);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < W; ++i) L::store(keys + (at / 2 + i) * work.columns + column, square[i]);
    }

  const auto pack_rows = [&](std::size_t low, std::size_t high, bool has_high, float* to) __attribute__((always_inline)) {
    for (std::size_t d = 0; d < dim; d += W) {
      const std::size_t at = smaller_of(d, dim - W);  // the last vector may overlap the previous one
      typename L::Floats lower, upper{};
      with_row(of.past_value, of.value, low,
               [&](const auto& rows, std::size_t row) __attribute__((always_inline)) { lower = rows(row, at); });
      if (has_high)
        with_row(of.past_value, of.value, high,
                 [&](const auto& rows, std::size_t row) __attribute__((always_inline)) { upper = rows(row, at); });
      L::store(to + at, P::zip(lower, upper));
    }
  };
  const std::size_t end = smaller_of(first + pack_columns, known), past_pairs = of.prefix / 2;
  for (std::size_t pair = first / 2; pair < smaller_of(past_pairs, (end + 1) / 2); ++pair)
    pack_rows(2 * pair, 2 * pair + 1, true, work.past_values + (head * past_pairs + pair) * dim);
  float* values = work.values + head * of.tokens * dim;
  for (std::size_t token = larger_of(first, of.prefix) - of.prefix; token + of.prefix < end; ++token) {
    const std::size_t place = of.prefix % 2 + token - work.begins[token], column = of.prefix + token;
    float* to = values + (work.pairs[token] + place / 2) * dim;
    if (place % 2 == 0) {
      const bool has_high = token + 1 < of.tokens && work.begins[token + 1] == work.begins[token];
      pack_rows(column, column + 1, has_high, to);
    } else if (place == 1 && of.prefix % 2 == 1 && token == work.begins[token]) {
      pack_rows(of.prefix - 1, column, true, to);
    }
  }
}

// As exponentiate() of the scores times `factor` > 0, to the base 2, with the results as pairs of neighbouring columns at the
// start of the row. The row holds `width` rounded up to pairs of vectors.
template <int W>
REXIT_INLINE float exponentiate_pairs(float* scores, std::size_t visible, std::size_t width, float factor) {
  using L = Lanes<W>;
  const float lowest = -1e30F;  // times a factor still finite
  for (std::size_t c = visible; c < round_up(width, 2 * W); ++c) scores[c] = lowest;
  typename L::Floats maxima = L::all(lowest), sum{};
  for (std::size_t c = 0; c < width; c += W) maxima = L::larger(maxima, L::load(scores + c));
  const typename L::Floats maximum = L::all(L::largest(maxima)), by = L::all(factor);
  for (std::size_t c = 0; c < width; c += 2 * W) {
    const typename L::Floats first = L::exp2((L::load(scores + c) - maximum) * by);
    const typename L::Floats second = L::exp2((L::load(scores + c + W) - maximum) * by);
    L::store(scores + c / 2, Bfloat16Pairs<W>::join(first, second));
    sum += first;
    sum += second;
  }
  return L::sum(sum);
}

// Needs an even dim >= 2 * W.
template <int W, int V>
REXIT_INLINE void attend_pairs(const AttentionWork& work, std::size_t task) {
  using L = Lanes<W>;
  using P = Bfloat16Pairs<W>;
  const SlateAttention& of = work.of;
  const std::size_t head = task / work.blocks, begin = task % work.blocks * work.block_tokens, half = of.dim / 2;
  const std::size_t end = smaller_of(of.tokens, begin + work.block_tokens), rows = (end - begin) * work.shared;
  std::size_t longest = 0;
  for (std::size_t t = begin; t < end; ++t) longest = larger_of(longest, t - work.begins[t] + 1);
  const std::size_t stride = round_up(of.prefix + round_up(longest, W), 2 * W), width = round_up(of.dim, W);
  float* scores = scratch_floats(rows * (stride + width + half + 1));
  float* mixed = scores + rows * stride;
  float* rounded = mixed + rows * width;
  float* sums = rounded + rows * half;
  const float** queries = scratch_rows(3 * rows);
  const float** prefix_shares = queries + rows;
  const float** candidate_shares = prefix_shares + rows;
  const std::size_t past_pairs = of.prefix / 2;
  const float factor = of.scale * log2_e;
  // A row per token and query head; the heads of a token are adjacent.
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    const float* query = of.query + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    for (std::size_t d = 0; d < of.dim; d += 2 * W) {
      const std::size_t at = smaller_of(d, of.dim - 2 * W);
      L::store(rounded + r * half + at / 2, P::join(L::load(query + at), L::load(query + at + W)));
    }
    queries[r] = rounded + r * half;
    prefix_shares[r] = scores + r * stride;
    candidate_shares[r] = prefix_shares[r] + past_pairs;
  }

  const float* keys = work.keys + head * half * work.columns;
  // In whole vectors: the scores after the prefix are overwritten below.
  if (of.prefix != 0) multiply<W, V, P>(queries, rows, keys, work.columns, half, round_up(of.prefix, W), scores, stride, false);
  for_each_candidate(work, begin, end,
                     [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
                       const std::size_t columns = round_up(last - first, W);
                       multiply<W, V, P>(queries + row, count, keys + of.prefix + first, work.columns, half, columns,
                                         scores + row * stride + of.prefix, stride, false);
                       for (std::size_t r = row; r < row + count; ++r) {
                         const std::size_t visible = begin + r / work.shared - first + 1;
                         sums[r] = exponentiate_pairs<W>(scores + r * stride, of.prefix + visible, of.prefix + columns, factor);
                       }
                     });
  const float* past_values = work.past_values + head * past_pairs * of.dim;
  const float* values = work.values + head * of.tokens * of.dim;
  multiply<W, V, P>(prefix_shares, rows, past_values, of.dim, past_pairs, of.dim, mixed, width, false);
  for_each_candidate(work, begin, end,
                     [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
                       multiply<W, V, P>(candidate_shares + row, count, values + work.pairs[first] * of.dim, of.dim,
                                         candidate_pairs(of.prefix, last - first), of.dim, mixed + row * width, width, true);
                     });
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t query_head = head * work.shared + r % work.shared;
    float* out = of.out + (query_head * of.tokens + begin + r / work.shared) * of.dim;
    for (std::size_t d = 0; d < of.dim; ++d) out[d] = mixed[r * width + column_of<W>(d, of.dim)] / sums[r];
  }
}

namespace {

template <int W, int V>
constexpr PairTable pair_table_of() {
  return {[](void* work, std::size_t i) { pack_pairs<W>(*static_cast<const AttentionWork*>(work), i); },
          [](void* work, std::size_t i) { attend_pairs<W, V>(*static_cast<const AttentionWork*>(work), i); },
          [](void* work, std::size_t i) { multiply_panel_pairs<W, V>(*static_cast<const PanelWork*>(work), i); }};
}

}  // namespace
}  // namespace rexit::core::kernels

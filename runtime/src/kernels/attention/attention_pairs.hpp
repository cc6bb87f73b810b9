// A slate's attention with products in bfloat16, for processors that have instructions for them. Scores, the softmax and all sums
// stay float32. Queries, keys, values and the softmax's numerators are rounded to bfloat16, and products take them in pairs.
//
// Queries and keys: a pair is two neighbouring numbers of a token. Keys are packed as columns of pairs, [kv_heads, dim / 2,
// columns].
//
// Values: a pair is the same number of two neighbouring tokens, and a row has a pair per number. A token sees the prefix and then
// its candidate, so no pair has tokens of two candidates, and a candidate's first token belongs to a pair with the prefix's last
// if the prefix is odd. With a prefix of 5 tokens and candidates A and B of 3 and 2:
//
//   position      0     1     2     3     4     5     6     7     8     9
//   token                                       0     1     2     3     4
//                 p0    p1    p2    p3    p4    A0    A1    A2    B0    B1
//   past_values   (p0    p1)  (p2    p3)                                         rows 0 and 1
//   values        (p4    A0)  (A1    A2)                                         rows 0 and 1: pair_begins of A's tokens is 0
//                 (p4    B0)  (B1     0)                                         rows 2 and 3: pair_begins of B's tokens is 2
//
// There are at most as many pairs as tokens.
#pragma once

#include "kernels/attention/attention_block.hpp"
#include "kernels/multiply.hpp"
#include "kernels/products/bfloat16_product_block.hpp"

namespace rexit::core::kernels {

// The pairs of a candidate's tokens, including one with the prefix's last token.
REXIT_INLINE constexpr std::size_t candidate_pairs(std::size_t prefix, std::size_t tokens) {
  return (prefix % 2 + tokens + 1) / 2;
}

// Calls body(rows, row) with the numbers of a position, which are in `past` or in `own`.
template <int W, class Body>
REXIT_INLINE void visit_position(const PackTask& task, const Stored& past, const Stored& own, std::size_t position,
                                 const Body& body) {
  visit<W>(task.is_past(position) ? past : own, task.attention.dim,
           [&](const auto& rows) __attribute__((always_inline)) { body(rows, task.row(position)); });
}

template <int W>
REXIT_INLINE void pack_key_pairs(const AttentionWork& work, const PackTask& task) {
  using L = Lanes<W>;
  const SlateAttention& attention = work.attention;
  const std::size_t dim = attention.dim;
  float* keys = work.keys + task.head * (dim / 2) * work.columns;
  for (std::size_t column = task.first; column < task.end(work.columns); column += W)
    for (std::size_t d = 0; d < dim; d += 2 * W) {
      const std::size_t at = smaller_of(d, dim - 2 * W);  // the last square may overlap the previous one
      typename L::Floats square[W];
#pragma GCC unroll 16
      for (std::size_t c = 0; c < W; ++c) {
        square[c] = typename L::Floats{};
        if (column + c < task.known())
          visit_position<W>(task, attention.past_key, attention.key, column + c,
                            [&](const auto& rows, std::size_t row) __attribute__((always_inline)) {
                              square[c] = Bfloat16Pairs<W>::join(rows(row, at), rows(row, at + W));
                            });
      }
      transpose<W>(square);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < W; ++i) L::store(keys + (at / 2 + i) * work.columns + column, square[i]);
    }
}

// Writes a row of pairs: the values of two positions, or of `first` and 0.
template <int W>
REXIT_INLINE void pack_value_pair(const PackTask& task, std::size_t first, std::size_t second, bool has_second, float* to) {
  using L = Lanes<W>;
  const SlateAttention& attention = task.attention;
  for (std::size_t d = 0; d < attention.dim; d += W) {
    const std::size_t at = smaller_of(d, attention.dim - W);  // the last vector may overlap the previous one
    typename L::Floats low, high{};
    visit_position<W>(task, attention.past_value, attention.value, first,
                      [&](const auto& rows, std::size_t row) __attribute__((always_inline)) { low = rows(row, at); });
    if (has_second)
      visit_position<W>(task, attention.past_value, attention.value, second,
                        [&](const auto& rows, std::size_t row) __attribute__((always_inline)) { high = rows(row, at); });
    L::store(to + at, Bfloat16Pairs<W>::zip(low, high));
  }
}

// The prefix's pairs. An odd prefix's last value belongs to the candidates' pairs.
template <int W>
REXIT_INLINE void pack_past_pairs(const AttentionWork& work, const PackTask& task) {
  const std::size_t pairs = work.attention.prefix / 2;
  for (std::size_t pair = task.first / 2; pair < smaller_of(pairs, (task.end(task.known()) + 1) / 2); ++pair)
    pack_value_pair<W>(task, 2 * pair, 2 * pair + 1, true, work.past_values + (task.head * pairs + pair) * work.attention.dim);
}

// The candidates' pairs. The task of a pair's first token in the slate packs it.
template <int W>
REXIT_INLINE void pack_candidate_pairs(const AttentionWork& work, const PackTask& task) {
  const SlateAttention& attention = work.attention;
  const std::size_t prefix = attention.prefix, *begins = work.candidate_begins;
  float* values = work.values + task.head * attention.tokens * attention.dim;
  for (std::size_t position = larger_of(task.first, prefix); position < task.end(task.known()); ++position) {
    const std::size_t token = position - prefix;
    const std::size_t place = prefix % 2 + token - begins[token];  // among the values of the candidate's pairs
    float* to = values + (work.pair_begins[token] + place / 2) * attention.dim;
    if (place % 2 == 0) {
      const bool has_second = token + 1 < attention.tokens && begins[token + 1] == begins[token];
      pack_value_pair<W>(task, position, position + 1, has_second, to);
    } else if (token == begins[token]) {
      pack_value_pair<W>(task, prefix - 1, position, true, to);
    }
  }
}

template <int W>
REXIT_INLINE void pack_pairs(const AttentionWork& work, std::size_t i) {
  const PackTask task(work, i);
  pack_key_pairs<W>(work, task);
  pack_past_pairs<W>(work, task);
  pack_candidate_pairs<W>(work, task);
}

// Products of pairs; they need an even dim >= 2 * W. See FloatOperands.
template <int W>
struct PairOperands {
  using L = Lanes<W>;
  using Product = Bfloat16Pairs<W>;
  static constexpr std::size_t step = 2 * W;
  static constexpr float lowest = -1e30F;  // still finite after the multiplication

  static REXIT_INLINE std::size_t depth(std::size_t dim) { return dim / 2; }
  static REXIT_INLINE std::size_t past_rows(std::size_t prefix) { return prefix / 2; }
  static REXIT_INLINE std::size_t first_row(const AttentionWork& work, std::size_t first) { return work.pair_begins[first]; }
  static REXIT_INLINE std::size_t candidate_rows(std::size_t prefix, std::size_t tokens) {
    return candidate_pairs(prefix, tokens);
  }

  static REXIT_INLINE std::size_t copied(const SlateAttention& attention) { return attention.dim / 2; }
  static REXIT_INLINE const float* query(const SlateAttention& attention, const float* query, float* copy) {
    for (std::size_t d = 0; d < attention.dim; d += 2 * W) {
      const std::size_t at = smaller_of(d, attention.dim - 2 * W);  // the last vector may overlap the previous one
      L::store(copy + at / 2, Product::join(L::load(query + at), L::load(query + at + W)));
    }
    return copy;
  }

  // Keys are packed without the scale, which is above 0. Shares are to the base 2, as pairs of neighbouring columns at the start
  // of the row. The row holds `width` rounded up to pairs of vectors.
  static REXIT_INLINE float exponentiate(const SlateAttention& attention, float* scores, std::size_t visible, std::size_t width) {
    for (std::size_t c = visible; c < round_up(width, 2 * W); ++c) scores[c] = lowest;
    typename L::Floats maxima = L::all(lowest), sum{};
    for (std::size_t c = 0; c < width; c += W) maxima = L::larger(maxima, L::load(scores + c));
    const typename L::Floats maximum = L::all(L::largest(maxima)), factor = L::all(attention.scale * log2_e);
    for (std::size_t c = 0; c < width; c += 2 * W) {
      const typename L::Floats first = L::exp2((L::load(scores + c) - maximum) * factor);
      const typename L::Floats second = L::exp2((L::load(scores + c + W) - maximum) * factor);
      L::store(scores + c / 2, Product::join(first, second));
      sum += first;
      sum += second;
    }
    return L::sum(sum);
  }
};

namespace {

template <int W, int V>
constexpr PairTable make_pair_table() {
  return {[](void* work, std::size_t i) { pack_pairs<W>(*static_cast<const AttentionWork*>(work), i); },
          [](void* work, std::size_t i) { attend_tokens<W, V, PairOperands<W>>(*static_cast<const AttentionWork*>(work), i); },
          [](void* work, std::size_t i) { multiply_panel_pairs<W, V>(*static_cast<const PanelWork*>(work), i); }};
}

}  // namespace
}  // namespace rexit::core::kernels

// A block of a slate's attention: scores, softmax, and the values' mix. The same for products of floats and of pairs of bfloat16;
// `Operands` has what differs.
#pragma once

#include <cfloat>

#include "kernels/attention/attention_pack.hpp"
#include "kernels/multiply.hpp"

namespace rexit::core::kernels {

// A block's memory, which the thread keeps for its next task. Each array has an element per row.
//
//   scores    [stride]   of the prefix, then of the candidate; the softmax's shares, whose sum is not 1, replace them
//   mixed     [width]    the values' sum, weighted by the shares
//   sums      number     of the shares
//   copies    [copied]   the query as the products read it, if that is not the caller's
//   queries, prefix_shares, candidate_shares: pointers, as multiply() takes its rows
template <int W, class Operands>
struct BlockMemory {
  std::size_t stride, width, copied;
  float *scores, *mixed, *sums, *copies;
  const float **queries, **prefix_shares, **candidate_shares;

  REXIT_INLINE BlockMemory(const AttentionWork& work, const AttentionBlock& block)
      : stride(round_up(work.attention.prefix + round_up(block.max_visible(work), W), Operands::step)),
        width(round_up(work.attention.dim, W)),
        copied(Operands::copied(work.attention)),
        scores(scratch_floats(block.rows * (stride + width + 1 + copied))),
        mixed(scores + block.rows * stride),
        sums(mixed + block.rows * width),
        copies(sums + block.rows),
        queries(scratch_rows(3 * block.rows)),
        prefix_shares(queries + block.rows),
        candidate_shares(prefix_shares + block.rows) {
    for (std::size_t r = 0; r < block.rows; ++r) {
      queries[r] = Operands::query(work.attention, work.attention.query + block.offset(r), copies + r * copied);
      prefix_shares[r] = scores + r * stride;
      candidate_shares[r] = prefix_shares[r] + Operands::past_rows(work.attention.prefix);
    }
  }
};

// Fills `scores` with shares, and `sums`.
template <int W, int V, class Operands>
REXIT_INLINE void compute_shares(const AttentionWork& work, const AttentionBlock& block, const BlockMemory<W, Operands>& memory) {
  using Product = typename Operands::Product;
  const std::size_t prefix = work.attention.prefix, depth = Operands::depth(work.attention.dim), stride = memory.stride;
  const float* keys = work.keys + block.head * depth * work.columns;
  // In whole vectors: the scores after the prefix are overwritten below.
  if (prefix != 0)
    multiply<W, V, Product>(memory.queries, block.rows, keys, work.columns, depth, round_up(prefix, W), memory.scores, stride,
                            false);
  for_each_candidate(work, block,
                     [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
                       const std::size_t columns = round_up(last - first, W);
                       float* scores = memory.scores + row * stride;
                       multiply<W, V, Product>(memory.queries + row, count, keys + prefix + first, work.columns, depth, columns,
                                               scores + prefix, stride, false);
                       const std::size_t window = work.attention.window;
                       for (std::size_t r = row; r < row + count; ++r, scores += stride) {
                         const std::size_t place = block.token(r) - first;
                         const std::size_t visible = window == 0 ? place + 1 : smaller_of(last - first, place + window);
                         if (window != 0)
                           for (std::size_t c = 0; c + window <= place; ++c) scores[prefix + c] = Operands::lowest;
                         memory.sums[r] = Operands::exponentiate(work.attention, scores, prefix + visible, prefix + columns);
                       }
                     });
}

// Fills `mixed`.
template <int W, int V, class Operands>
REXIT_INLINE void mix_values(const AttentionWork& work, const AttentionBlock& block, const BlockMemory<W, Operands>& memory) {
  using Product = typename Operands::Product;
  const SlateAttention& attention = work.attention;
  const std::size_t dim = attention.dim, width = memory.width, past_rows = Operands::past_rows(attention.prefix);
  const float* past_values =
      (work.past_values != nullptr ? work.past_values : attention.past_value.floats) + block.head * past_rows * dim;
  const float* values = (work.values != nullptr ? work.values : attention.value.floats) + block.head * attention.tokens * dim;
  multiply<W, V, Product>(memory.prefix_shares, block.rows, past_values, dim, past_rows, dim, memory.mixed, width, false);
  for_each_candidate(
      work, block, [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
        multiply<W, V, Product>(memory.candidate_shares + row, count, values + Operands::first_row(work, first) * dim, dim,
                                Operands::candidate_rows(attention.prefix, last - first), dim, memory.mixed + row * width, width,
                                true);
      });
}

template <int W, int V, class Operands>
REXIT_INLINE void attend_tokens(const AttentionWork& work, std::size_t task) {
  const AttentionBlock block(work, task);
  const BlockMemory<W, Operands> memory(work, block);
  compute_shares<W, V>(work, block, memory);
  mix_values<W, V>(work, block, memory);
  const std::size_t dim = work.attention.dim;
  for (std::size_t r = 0; r < block.rows; ++r) {
    float* out = work.attention.out + block.offset(r);
    for (std::size_t d = 0; d < dim; ++d) out[d] = memory.mixed[r * memory.width + column_of<W>(d, dim)] / memory.sums[r];
  }
}

// Products of floats; with SlateAttention::bfloat16 of floats rounded to it.
template <int W>
struct FloatOperands {
  using L = Lanes<W>;
  using Product = FloatProduct<W>;
  static constexpr std::size_t step = W;  // scores are stored in multiples of it
  static constexpr float lowest = -FLT_MAX;

  // Numbers of a query or key.
  static REXIT_INLINE std::size_t depth(std::size_t dim) { return dim; }
  // Rows of values before the candidates'.
  static REXIT_INLINE std::size_t past_rows(std::size_t prefix) { return prefix; }
  // A candidate's rows of values: the first, and their number.
  static REXIT_INLINE std::size_t first_row(const AttentionWork&, std::size_t first) { return first; }
  static REXIT_INLINE std::size_t candidate_rows(std::size_t, std::size_t tokens) { return tokens; }

  static REXIT_INLINE std::size_t copied(const SlateAttention& attention) { return attention.bfloat16 ? attention.dim : 0; }
  // A query as the products read it, perhaps in `copy`.
  static REXIT_INLINE const float* query(const SlateAttention& attention, const float* query, float* copy) {
    if (!attention.bfloat16) return query;
    for (std::size_t d = 0; d < attention.dim; d += W) {
      const std::size_t at = smaller_of(d, attention.dim - W);  // the last vector may overlap the previous one
      L::store(copy + at, L::to_bfloat16(L::load(query + at)));
    }
    return copy;
  }

  // Softmax over the first `visible` scores, without the division. The others, up to `width` rounded up to whole vectors, become
  // 0. Returns the sum.
  static REXIT_INLINE float exponentiate(const SlateAttention& attention, float* scores, std::size_t visible, std::size_t width) {
    for (std::size_t c = visible; c < round_up(width, W); ++c) scores[c] = lowest;
    typename L::Floats maxima = L::all(lowest), sum{};
    for (std::size_t c = 0; c < width; c += W) maxima = L::larger(maxima, L::load(scores + c));
    const typename L::Floats maximum = L::all(L::largest(maxima));
    for (std::size_t c = 0; c < width; c += W) {
      const typename L::Floats x = L::load(scores + c) - maximum;
      const typename L::Floats e = attention.bfloat16 ? L::exp2(x * L::all(log2_e)) : L::exp(x);
      L::store(scores + c, operand<W>(attention, e));
      sum += e;
    }
    return L::sum(sum);
  }
};

template <int W, int V>
REXIT_INLINE void attend_block(const AttentionWork& work, std::size_t task) {
  attend_tokens<W, V, FloatOperands<W>>(work, task);
}

}  // namespace rexit::core::kernels

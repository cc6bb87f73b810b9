// What the tasks of a slate's attention share, for any vector width W: the work, and how a task finds and loads its numbers.
//
// A task handles a key head with the query heads that share it. Its numbers are counted in three ways:
//
//   position   in the head's sequence, which is the prefix's tokens and then the slate's. Packed keys have a column per position.
//   token      in the slate: position - prefix
//   row        of a tensor [heads, n, dim]: head * n + position or token
//
// Values in bfloat16 are also counted in pairs, see below.
#pragma once

#include <cfloat>

#include "kernels/attention/slate_attention.hpp"
#include "kernels/lanes.hpp"
#include "kernels/multiply.hpp"
#include "kernels/products/bfloat16_product_block.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

// Shared by all tasks. Keys are packed as columns without a gap between prefix and slate, so that scores of a prefix fall into
// the same lanes wherever the boundary lies. Values stay rows; halves and what is rounded to bfloat16 are converted once for all
// blocks.
struct AttentionWork {
  const SlateAttention& attention;
  std::size_t shared;                        // query heads per key head
  std::size_t block_tokens;                  // tokens per block
  std::size_t blocks;                        // blocks per key head
  std::size_t columns;                       // including a vector's width of padding; see odd_lines
  std::size_t packs;                         // packing tasks per key head
  const std::size_t* candidate_begins;       // [tokens]: the first token of a token's candidate
  float* keys;                               // [kv_heads, dim, columns]
  float* past_values;                        // [kv_heads, prefix, dim], converted; null: they are used as they are
  float* values;                             // [kv_heads, tokens, dim], likewise
  const std::size_t* pair_begins = nullptr;  // [tokens]: the first pair of a token's candidate, for products of pairs
};

// A row length, in floats, such that rows start in different cache sets. With a multiple of 4096 bytes all rows would compete for
// the same set.
REXIT_INLINE constexpr std::size_t odd_lines(std::size_t floats) {
  constexpr std::size_t line = 16;
  return ((floats + line - 1) / line | 1) * line;
}

// Positions per packing task.
constexpr std::size_t pack_columns = 64;

// A packing task: positions [first, first + pack_columns) of a key head.
struct PackTask {
  const SlateAttention& attention;
  std::size_t head, first;

  REXIT_INLINE PackTask(const AttentionWork& work, std::size_t task)
      : attention(work.attention), head(task / work.packs), first(task % work.packs * pack_columns) {}

  // The task's end among the first `count` positions.
  REXIT_INLINE std::size_t end(std::size_t count) const { return smaller_of(count, first + pack_columns); }
  REXIT_INLINE std::size_t known() const { return attention.prefix + attention.tokens; }
  REXIT_INLINE bool is_past(std::size_t position) const { return position < attention.prefix; }
  // The row of a position's key or value in its tensor, the past's or the slate's.
  REXIT_INLINE std::size_t row(std::size_t position) const {
    return is_past(position) ? head * attention.prefix + position
                             : attention.row(head, position - attention.prefix, attention.kv_heads);
  }
  // From a position's row to the next, of two in one tensor.
  REXIT_INLINE std::size_t row_step() const { return attention.tokens_first ? attention.kv_heads : 1; }
};

// The first token behind the candidate of token `at`.
REXIT_INLINE std::size_t candidate_end(const AttentionWork& work, std::size_t at) {
  const std::size_t first = work.candidate_begins[at];
  while (at < work.attention.tokens && work.candidate_begins[at] == first) ++at;
  return at;
}

// A task of attend: tokens [begin, end) of a key head. The block has a row per token and query head; the heads of a token are
// adjacent.
struct AttentionBlock {
  const SlateAttention& attention;
  std::size_t head, shared, begin, end, rows;

  REXIT_INLINE AttentionBlock(const AttentionWork& work, std::size_t task)
      : attention(work.attention),
        head(task / work.blocks),
        shared(work.shared),
        begin(task % work.blocks * work.block_tokens),
        end(smaller_of(attention.tokens, begin + work.block_tokens)),
        rows((end - begin) * shared) {}

  REXIT_INLINE std::size_t token(std::size_t row) const { return begin + row / shared; }
  // Where a row's numbers begin in query and out.
  REXIT_INLINE std::size_t offset(std::size_t row) const {
    return attention.row(head * shared + row % shared, token(row), attention.heads) * attention.dim;
  }
  // The largest number of its candidate's tokens that a token of the block sees.
  REXIT_INLINE std::size_t max_visible(const AttentionWork& work) const {
    std::size_t longest = 0;
    for (std::size_t t = begin; t < end; ++t) longest = larger_of(longest, t - work.candidate_begins[t] + 1);
    if (attention.window != 0)
      for (std::size_t t = begin; t < end; t = candidate_end(work, t))
        longest = larger_of(longest, candidate_end(work, t) - work.candidate_begins[t]);
    return longest;
  }
};

// Calls `body(first, last, row, count)` for every candidate's part of the block: tokens [first, last) are visible to some token
// of the part, and its `count` rows begin at `row`.
template <class Body>
REXIT_INLINE void for_each_candidate(const AttentionWork& work, const AttentionBlock& block, const Body& body) {
  for (std::size_t from = block.begin, to = block.begin; from < block.end; from = to) {
    const std::size_t first = work.candidate_begins[from];
    while (to < block.end && work.candidate_begins[to] == first) ++to;
    body(first, block.attention.window == 0 ? to : candidate_end(work, from), (from - block.begin) * block.shared,
         (to - from) * block.shared);
  }
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

// Calls `body` with the StoredRows of the numbers' type.
template <int W, class Body>
REXIT_INLINE void visit(const Stored& stored, std::size_t dim, const Body& body) {
  if (stored.halves != nullptr) {
    body(StoredRows<W, std::uint16_t>{stored.halves, dim});
  } else {
    body(StoredRows<W, float>{stored.floats, dim});
  }
}

// Packing for products of floats: keys as columns, multiplied by the scale, and values converted to floats.

// `x` as the products read it.
template <int W>
REXIT_INLINE typename Lanes<W>::Floats operand(const SlateAttention& attention, typename Lanes<W>::Floats x) {
  return attention.bfloat16 ? Lanes<W>::to_bfloat16(x) : x;
}

// How keys lie in memory as products read them.
struct FloatKeys {
  // Rows of a packed key.
  static REXIT_INLINE std::size_t depth(std::size_t dim) { return dim; }

  // Packs W columns, `count` of them keys and the others 0: `key(c, at)` loads W numbers of column c, from row `at`.
  template <int W, class Key>
  static REXIT_INLINE void pack_square(const AttentionWork& work, std::size_t count, float* to, const Key& key) {
    using L = Lanes<W>;
    const SlateAttention& attention = work.attention;
    for (std::size_t d = 0; d < attention.dim; d += W) {
      const std::size_t at = smaller_of(d, attention.dim - W);  // the last square may overlap the previous one
      typename L::Floats square[W];
#pragma GCC unroll 16
      for (std::size_t c = 0; c < W; ++c) square[c] = c < count ? operand<W>(attention, key(c, at)) : typename L::Floats{};
      transpose<W>(square);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < W; ++i) L::store(to + (at + i) * work.columns, square[i] * L::all(attention.scale));
    }
  }
};

template <int W, class Keys>
REXIT_INLINE void pack_keys(const AttentionWork& work, const PackTask& task) {
  const SlateAttention& attention = work.attention;
  for (std::size_t column = task.first; column < task.end(work.columns); column += W) {
    float* to = work.keys + task.head * Keys::depth(attention.dim) * work.columns + column;
    const std::size_t count = column < task.known() ? smaller_of(W, task.known() - column) : 0;
    if (task.is_past(column) && !task.is_past(column + W - 1)) {  // keys of both tensors
      Keys::template pack_square<W>(work, count, to, [&](std::size_t c, std::size_t at) __attribute__((always_inline)) {
        const Stored& stored = task.is_past(column + c) ? attention.past_key : attention.key;
        typename Lanes<W>::Floats part;
        visit<W>(stored, attention.dim,
                 [&](const auto& keys) __attribute__((always_inline)) { part = keys(task.row(column + c), at); });
        return part;
      });
      continue;
    }
    const std::size_t row = task.row(column), step = task.row_step();
    visit<W>(task.is_past(column) ? attention.past_key : attention.key, attention.dim,
             [&](const auto& keys) __attribute__((always_inline)) {
               Keys::template pack_square<W>(work, count, to, [&](std::size_t c, std::size_t at) __attribute__((always_inline)) {
                 return keys(row + c * step, at);
               });
             });
  }
}

// `count` rows from `first` on, `step` apart, as floats; dim >= W. `to`: the first.
template <int W>
REXIT_INLINE void convert(const SlateAttention& attention, const Stored& stored, std::size_t first, std::size_t step,
                          std::size_t count, float* to) {
  const std::size_t dim = attention.dim;
  visit<W>(stored, dim, [&](const auto& rows) __attribute__((always_inline)) {
    for (std::size_t n = 0; n < count; ++n)
      for (std::size_t d = 0; d < dim; d += W) {
        const std::size_t at = smaller_of(d, dim - W);  // the last vector may overlap the previous one
        Lanes<W>::store(to + n * dim + at, operand<W>(attention, rows(first + n * step, at)));
      }
  });
}

template <int W>
REXIT_INLINE void convert_values(const AttentionWork& work, const PackTask& task) {
  const SlateAttention& attention = work.attention;
  const std::size_t past_end = task.end(attention.prefix), end = task.end(task.known());
  const std::size_t begin = larger_of(task.first, attention.prefix);
  if (work.past_values != nullptr && task.first < past_end)
    convert<W>(attention, attention.past_value, task.row(task.first), 1, past_end - task.first,
               work.past_values + task.row(task.first) * attention.dim);
  if (work.values != nullptr && begin < end)
    convert<W>(attention, attention.value, task.row(begin), task.row_step(), end - begin,
               work.values + (task.head * attention.tokens + begin - attention.prefix) * attention.dim);
}

template <int W>
REXIT_INLINE void pack(const AttentionWork& work, std::size_t i) {
  const PackTask task(work, i);
  pack_keys<W, FloatKeys>(work, task);
  convert_values<W>(work, task);
}

// A block of a slate's attention: scores, softmax, and the values' mix. The same for products of floats and of pairs of bfloat16;
// `Operands` has what differs.

// A block's memory, which the thread keeps for its next task. Each array has an element per row.
//
//   scores    [stride]   of the prefix, then of the candidate; the softmax's shares, whose sum is not 1, replace them
//   mixed     [width]    the values' sum, weighted by the shares
//   sums      number     of the shares
//   copies    [copied]   the query as the products read it, if that is not the caller's
//   queries, prefix_shares, candidate_shares: pointers, as multiply() takes its rows
//
// Behind the block's rows the arrays have spare ones, which products of whole tiles read and write.
template <int W, class Operands>
struct BlockMemory {
  std::size_t stride, width, copied, memory_rows;
  float *scores, *mixed, *sums, *copies;
  const float **queries, **prefix_shares, **candidate_shares;

  REXIT_INLINE BlockMemory(const AttentionWork& work, const AttentionBlock& block)
      : stride(round_up(work.attention.prefix + round_up(block.max_visible(work), W), Operands::step)),
        width(round_up(work.attention.dim, W)),
        copied(Operands::copied(work.attention)),
        memory_rows(block.rows + Operands::spare_rows),
        scores(scratch_floats(memory_rows * (stride + width + 1 + copied))),
        mixed(scores + memory_rows * stride),
        sums(mixed + memory_rows * width),
        copies(sums + memory_rows),
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
  const std::size_t prefix = work.attention.prefix, depth = Operands::depth(work.attention.dim), stride = memory.stride;
  const float* keys = work.keys + block.head * depth * work.columns;
  // In whole vectors: the scores after the prefix are overwritten below.
  if (prefix != 0)
    Operands::template multiply<V>(memory.queries, memory.copied, block.rows, keys, work.columns, depth, round_up(prefix, W),
                                   memory.scores, stride, false);
  for_each_candidate(work, block,
                     [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
                       const std::size_t columns = round_up(last - first, W);
                       float* scores = memory.scores + row * stride;
                       Operands::template multiply<V>(memory.queries + row, memory.copied, count, keys + prefix + first,
                                                      work.columns, depth, columns, scores + prefix, stride, false);
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
  const SlateAttention& attention = work.attention;
  const std::size_t dim = attention.dim, width = memory.width, past_rows = Operands::past_rows(attention.prefix);
  const float* past_values =
      (work.past_values != nullptr ? work.past_values : attention.past_value.floats) + block.head * past_rows * dim;
  const float* values = (work.values != nullptr ? work.values : attention.value.floats) + block.head * attention.tokens * dim;
  Operands::template multiply<V>(memory.prefix_shares, memory.stride, block.rows, past_values, dim, past_rows, dim, memory.mixed,
                                 width, false);
  for_each_candidate(
      work, block, [&](std::size_t first, std::size_t last, std::size_t row, std::size_t count) __attribute__((always_inline)) {
        Operands::template multiply<V>(
            memory.candidate_shares + row, memory.stride, count, values + Operands::first_row(work, first) * dim, dim,
            Operands::candidate_rows(attention.prefix, last - first), dim, memory.mixed + row * width, width, true);
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
    const float* mixed = memory.mixed + r * memory.width;
    float* out = work.attention.out + block.offset(r);
    const typename Lanes<W>::Floats sum = Lanes<W>::all(memory.sums[r]);
    for (std::size_t d = 0; d < dim; d += W)  // the last vector may overlap the previous one: see multiply()
      Lanes<W>::store(out + smaller_of(d, dim - W), Lanes<W>::load(mixed + d) / sum);
  }
}

// Products by vectors.
template <int W, class Product>
struct VectorProducts {
  static constexpr std::size_t spare_rows = 0;

  // As kernels::multiply(). a_step: from a row to the next, in floats, if the rows are of BlockMemory.
  template <int V>
  static REXIT_INLINE void multiply(const float* const* a, std::size_t /*a_step*/, std::size_t rows, const float* b,
                                    std::size_t b_stride, std::size_t k, std::size_t n, float* c, std::size_t c_stride,
                                    bool add) {
    kernels::multiply<W, V, Product>(a, rows, b, b_stride, k, n, c, c_stride, add);
  }
};

// Products of floats; with SlateAttention::bfloat16 of floats rounded to it.
template <int W>
struct FloatOperands : VectorProducts<W, FloatProduct<W>>, FloatKeys {
  using L = Lanes<W>;
  static constexpr std::size_t step = W;  // scores are stored in multiples of it
  static constexpr float lowest = -FLT_MAX;

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

// As FloatKeys, unscaled.
struct PairKeys {
  static REXIT_INLINE std::size_t depth(std::size_t dim) { return dim / 2; }

  template <int W, class Key>
  static REXIT_INLINE void pack_square(const AttentionWork& work, std::size_t count, float* to, const Key& key) {
    using L = Lanes<W>;
    const std::size_t dim = work.attention.dim;
    for (std::size_t d = 0; d < dim; d += 2 * W) {
      const std::size_t at = smaller_of(d, dim - 2 * W);  // the last square may overlap the previous one
      typename L::Floats square[W];
#pragma GCC unroll 16
      for (std::size_t c = 0; c < W; ++c)
        square[c] = c < count ? Bfloat16Pairs<W>::join(key(c, at), key(c, at + W)) : typename L::Floats{};
      transpose<W>(square);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < W; ++i) L::store(to + (at / 2 + i) * work.columns, square[i]);
    }
  }
};

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
  pack_keys<W, PairKeys>(work, task);
  pack_past_pairs<W>(work, task);
  pack_candidate_pairs<W>(work, task);
}

// Products of pairs; they need an even dim >= 2 * W. See FloatOperands.
template <int W>
struct PairOperands : VectorProducts<W, Bfloat16Pairs<W>>, PairKeys {
  using L = Lanes<W>;
  using Product = Bfloat16Pairs<W>;
  static constexpr std::size_t step = 2 * W;
  static constexpr float lowest = -1e30F;  // still finite after the multiplication

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
    const typename L::Floats factor = L::all(attention.scale * log2_e), highest = L::all(L::largest(maxima)) * factor;
    for (std::size_t c = 0; c < width; c += 2 * W) {
      const typename L::Floats first = L::exp2(L::load(scores + c) * factor - highest);
      const typename L::Floats second = L::exp2(L::load(scores + c + W) * factor - highest);
      L::store(scores + c / 2, Product::join(first, second));
      sum += first;
      sum += second;
    }
    return L::sum_of_halves(sum);
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

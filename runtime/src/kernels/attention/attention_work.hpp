// What the tasks of a slate's attention share, for any vector width W: the work, and how a task finds and loads its numbers.
//
// A task handles a key head with the query heads that share it. Its numbers are counted in three ways:
//
//   position   in the head's sequence, which is the prefix's tokens and then the slate's. Packed keys have a column per position.
//   token      in the slate: position - prefix
//   row        of a tensor [heads, n, dim]: head * n + position or token
//
// Values in bfloat16 are also counted in pairs, see attention_pairs.hpp.
#pragma once

#include "kernels/attention/slate_attention.hpp"
#include "kernels/lanes.hpp"
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
  const std::size_t* pair_begins = nullptr;  // [tokens]: the first pair of a token's candidate, for attention_pairs.hpp
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
    return is_past(position) ? head * attention.prefix + position : head * attention.tokens + position - attention.prefix;
  }
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
    return ((head * shared + row % shared) * attention.tokens + token(row)) * attention.dim;
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

}  // namespace rexit::core::kernels

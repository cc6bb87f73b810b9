#include "kernels/attention/slate_attention.hpp"

#include <algorithm>

#include "base/checked.hpp"
#include "kernels/attention/attention.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t widest = 16;      // lanes of the widest vectors
constexpr std::size_t block_rows = 48;  // queries per block: their scores should fit in a core's private cache

// Attention alone, for heads that are shorter than a vector.
constexpr Table scalar_table{1, [](void* work, std::size_t i) { pack<1>(*static_cast<const AttentionWork*>(work), i); },
                             [](void* work, std::size_t i) { attend_block<1, 1>(*static_cast<const AttentionWork*>(work), i); }};

// `with`, unless its vectors are wider than a head; then the widest table that fits.
const Table& table_for(std::size_t dim, const Table& with) {
  if (with.lanes <= dim) return with;
  for (const Table* candidate : tables())
    if (candidate->lanes <= dim) return *candidate;
  return scalar_table;
}

// An odd or short head has no whole vectors of pairs. The largest score has the largest share only if the scale is positive.
bool in_pairs(const SlateAttention& attention, const Table& table) {
  return attention.bfloat16 && table.pairs != nullptr && attention.dim % 2 == 0 && attention.dim >= 2 * table.lanes &&
         attention.scale > 0;
}

std::size_t whole_lines(std::size_t floats) { return round_up(floats, cache_line / sizeof(float)); }

// How a call is divided into tasks, without the arrays.
AttentionWork divide(const SlateAttention& attention) {
  const std::size_t shared = attention.heads / attention.kv_heads;
  const std::size_t block_tokens = std::max<std::size_t>(1, block_rows / shared);
  const std::size_t columns = odd_lines(attention.prefix + attention.tokens + widest);
  // The tensors exist, so their sizes do not overflow. A block's scores, rows times tokens, may: product() throws then.
  product(block_tokens * shared, columns + round_up(attention.dim, widest) + 1);
  const std::size_t blocks = ceil_div(attention.tokens, block_tokens), packs = ceil_div(columns, pack_columns);
  return {attention, shared, block_tokens, blocks, columns, packs, nullptr, nullptr, nullptr, nullptr};
}

// Fills an element per token: the first token of its candidate, and the candidate's first pair.
void find_candidates(const SlateAttention& attention, std::size_t* begins, std::size_t* pair_begins) {
  for (std::size_t first = 0, last = 0, pair = 0; first < attention.tokens; first = last) {
    while (last < attention.tokens && attention.groups[last] == attention.groups[first]) ++last;
    std::fill(begins + first, begins + last, first);
    std::fill(pair_begins + first, pair_begins + last, pair);
    pair += candidate_pairs(attention.prefix, last - first);
  }
}

// The sizes of AttentionWork's arrays, which are side by side in one block of memory: keys, past_values, values,
// candidate_begins, pair_begins. All but the last begin at a cache line.
struct Arrays {
  Arrays(const SlateAttention& attention, std::size_t columns, bool pairs)
      : has_past_values(attention.bfloat16 || attention.past_value.floats == nullptr),
        has_values(attention.bfloat16 || attention.value.floats == nullptr || attention.tokens_first),
        tokens(attention.tokens) {
    const std::size_t numbers = pairs ? 2 : 1;  // per float
    keys = whole_lines(product(attention.kv_heads, attention.dim / numbers, columns));
    past_values = has_past_values ? whole_lines(product(attention.kv_heads, attention.prefix / numbers, attention.dim)) : 0;
    values = has_values ? whole_lines(product(attention.kv_heads, tokens, attention.dim)) : 0;
  }

  std::size_t bytes() const { return (keys + past_values + values) * sizeof(float) + 2 * tokens * sizeof(std::size_t); }

  // `memory`: [bytes()].
  void assign(std::byte* memory, AttentionWork& work) const {
    auto* const floats = reinterpret_cast<float*>(memory);
    auto* const begins = reinterpret_cast<std::size_t*>(floats + keys + past_values + values);
    find_candidates(work.attention, begins, begins + tokens);
    work.keys = floats;
    work.past_values = has_past_values ? floats + keys : nullptr;
    work.values = has_values ? floats + keys + past_values : nullptr;
    work.candidate_begins = begins;
    work.pair_begins = begins + tokens;
  }

  bool has_past_values, has_values;       // false: the caller's are used as they are
  std::size_t keys, past_values, values;  // floats
  std::size_t tokens;
};

}  // namespace

void attend(const SlateAttention& attention, const Threads& threads, const Table& with) {
  if (attention.tokens == 0) return;
  const Table& table = table_for(attention.dim, with);
  const bool pairs = in_pairs(attention, table);
  AttentionWork work = divide(attention);
  const Arrays arrays(attention, work.columns, pairs);
  const Threads::Scratch scratch(threads, arrays.bytes());
  arrays.assign(scratch.data(), work);
  threads.run(pairs ? table.pairs->pack : table.pack, attention.kv_heads * work.packs, &work);
  threads.run(pairs ? table.pairs->attend : table.attend, attention.kv_heads * work.blocks, &work);
}

}  // namespace rexit::core::kernels

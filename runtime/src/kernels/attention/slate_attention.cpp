#include "kernels/attention/slate_attention.hpp"

#include <algorithm>

#include "base/checked.hpp"
#include "kernels/attention/attention_pairs.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t widest = 16;      // lanes of the widest vectors
constexpr std::size_t block_rows = 48;  // queries per block: their scores should fit in a core's private cache

void pack_scalar(void* work, std::size_t i) { pack<1>(*static_cast<const AttentionWork*>(work), i); }
void attend_scalar(void* work, std::size_t i) { attend_block<1, 1>(*static_cast<const AttentionWork*>(work), i); }
constexpr Table scalar_table{1,       pack_scalar, attend_scalar, nullptr, nullptr, nullptr, nullptr,
                             nullptr, nullptr,     nullptr,       nullptr, nullptr, nullptr};

std::size_t whole_lines(std::size_t floats) { return round_up(floats, cache_line / sizeof(float)); }
// `with`, unless its vectors are wider than a head; then the widest table that fits.
const Table& table_for(std::size_t dim, const Table& with) {
  if (with.lanes <= dim) return with;
  for (const Table* candidate : tables())
    if (candidate->lanes <= dim) return *candidate;
  return scalar_table;
}

// An odd or short head has no whole vectors of pairs, and a scale below 0 no largest score.
bool in_pairs(const SlateAttention& of, const Table& table) {
  return of.bfloat16 && table.pairs != nullptr && of.dim % 2 == 0 && of.dim >= 2 * table.lanes && of.scale > 0;
}

}  // namespace

void attend(const SlateAttention& attention, const Threads& threads, const Table& with) {
  if (attention.tokens == 0) return;
  const std::size_t shared = attention.heads / attention.kv_heads;
  const std::size_t block_tokens = std::max<std::size_t>(1, block_rows / shared);
  const std::size_t columns = odd_lines(attention.prefix + attention.tokens + widest);
  const std::size_t blocks = (attention.tokens + block_tokens - 1) / block_tokens;
  const std::size_t packs = (columns + pack_columns - 1) / pack_columns;
  // The tensors exist, so their sizes do not overflow. A block's scores, rows times tokens, may: product() throws then.
  product(block_tokens * shared, columns + round_up(attention.dim, widest) + 1);
  const Table& table = table_for(attention.dim, with);
  const bool pairs = in_pairs(attention, table);
  const bool convert_past = attention.bfloat16 || attention.past_value.floats == nullptr;
  const bool convert_new = attention.bfloat16 || attention.value.floats == nullptr;
  const std::size_t past_rows = pairs ? attention.prefix / 2 : convert_past ? attention.prefix : 0;
  const std::size_t packed = whole_lines(product(attention.kv_heads, pairs ? attention.dim / 2 : attention.dim, columns));
  const std::size_t past_values = whole_lines(product(attention.kv_heads, past_rows, attention.dim));
  const std::size_t new_values = product(attention.kv_heads, convert_new ? attention.tokens : 0, attention.dim);
  const std::size_t floats = packed + whole_lines(past_values + new_values);
  const Threads::Scratch scratch(threads, floats * sizeof(float) + 2 * attention.tokens * sizeof(std::size_t));
  auto* keys = reinterpret_cast<float*>(scratch.data());
  float* converted = keys + packed;
  auto* begins = reinterpret_cast<std::size_t*>(keys + floats);
  std::size_t* pair_begins = begins + attention.tokens;
  for (std::size_t first = 0, last = 0, pair = 0; first < attention.tokens; first = last) {
    while (last < attention.tokens && attention.groups[last] == attention.groups[first]) ++last;
    std::fill(begins + first, begins + last, first);
    std::fill(pair_begins + first, pair_begins + last, pair);
    pair += candidate_pairs(attention.prefix, last - first);
  }
  AttentionWork work{attention,
                     shared,
                     block_tokens,
                     blocks,
                     columns,
                     packs,
                     begins,
                     keys,
                     convert_past ? converted : nullptr,
                     convert_new ? converted + past_values : nullptr,
                     pair_begins};
  threads.run(pairs ? table.pairs->pack : table.pack, attention.kv_heads * packs, &work);
  threads.run(pairs ? table.pairs->attend : table.attend, attention.kv_heads * blocks, &work);
}

}  // namespace rexit::core::kernels

#include "kernels/slate_attention.hpp"

#include <algorithm>

#include "base/checked.hpp"
#include "kernels/attention_block.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t widest = 16;      // lanes of the widest vectors
constexpr std::size_t block_rows = 48;  // queries per block: their scores should fit in a core's own cache

void pack_any(void* work, std::size_t i) { pack<1>(*static_cast<const AttentionWork*>(work), i); }
void attend_any(void* work, std::size_t i) { attend_block<1, 1>(*static_cast<const AttentionWork*>(work), i); }
constexpr Table one_lane{1, pack_any, attend_any, nullptr, nullptr, nullptr, nullptr, nullptr};

// Of so many floats, in whole cache lines.
std::size_t lines_of(std::size_t floats) { return round_up(floats, cache_line / sizeof(float)); }

// `with`, unless its vectors are wider than a head: then the widest that fit.
const Table& fitting(std::size_t dim, const Table& with) {
  if (with.lanes <= dim) return with;
  for (const Table* one : tables())
    if (one->lanes <= dim) return *one;
  return one_lane;
}

}  // namespace

void attend(const SlateAttention& attention, const Threads& threads, const Table& with) {
  if (attention.tokens == 0) return;
  const std::size_t shared = attention.heads / attention.kv_heads;
  const std::size_t block_tokens = std::max<std::size_t>(1, block_rows / shared);
  const std::size_t columns = odd_lines(attention.prefix + attention.tokens + widest);
  const std::size_t blocks = (attention.tokens + block_tokens - 1) / block_tokens;
  const std::size_t packs = (columns + pack_columns - 1) / pack_columns;
  // The tensors exist, so their sizes fit in memory. A block's scores are rows times tokens, which no tensor is: throws if that
  // overflows.
  product(block_tokens * shared, columns + round_up(attention.dim, widest) + 1);
  const std::size_t packed = lines_of(product(attention.kv_heads, attention.dim, columns));
  const bool convert_past = attention.past_value.floats == nullptr, convert_own = attention.value.floats == nullptr;
  const std::size_t past = product(attention.kv_heads, convert_past ? attention.prefix : 0, attention.dim);
  const std::size_t own = product(attention.kv_heads, convert_own ? attention.tokens : 0, attention.dim);
  const std::size_t floats = packed + lines_of(past + own);
  const Threads::Scratch scratch(threads, floats * sizeof(float) + attention.tokens * sizeof(std::size_t));
  auto* keys = reinterpret_cast<float*>(scratch.data());
  float* converted = keys + packed;
  auto* begins = reinterpret_cast<std::size_t*>(keys + floats);
  begins[0] = 0;
  for (std::size_t t = 1; t < attention.tokens; ++t)
    begins[t] = attention.groups[t] == attention.groups[t - 1] ? begins[t - 1] : t;
  AttentionWork work{attention,
                     shared,
                     block_tokens,
                     blocks,
                     columns,
                     packs,
                     begins,
                     keys,
                     convert_past ? converted : nullptr,
                     convert_own ? converted + past : nullptr};
  const Table& table = fitting(attention.dim, with);
  threads.run(table.pack, attention.kv_heads * packs, &work);
  threads.run(table.attend, attention.kv_heads * blocks, &work);
}

}  // namespace rexit::core::kernels

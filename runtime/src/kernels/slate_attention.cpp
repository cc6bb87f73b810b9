#include "kernels/slate_attention.hpp"

#include <algorithm>
#include <vector>

#include "kernels/attention_block.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t widest = 16;        // lanes of the widest vectors
constexpr std::size_t block_rows = 48;    // queries of a block: their scores should fit a core's own cache
constexpr std::size_t pack_columns = 64;  // keys turned by one task

void pack_keys(void* data, std::size_t task) {
  const Plan& plan = *static_cast<const Plan*>(data);
  const SlateAttention& of = plan.of;
  const std::size_t head = task / plan.packs, first = task % plan.packs * pack_columns;
  float* to = plan.keys + head * of.dim * plan.columns;
  for (std::size_t c = first; c < std::min(plan.columns, first + pack_columns); ++c) {
    const float* key = c < of.prefix                               ? of.past_key + (head * of.prefix + c) * of.dim
                       : c >= plan.own && c < plan.own + of.tokens ? of.key + (head * of.tokens + c - plan.own) * of.dim
                                                                   : nullptr;
    for (std::size_t d = 0; d < of.dim; ++d) to[d * plan.columns + c] = key != nullptr ? key[d] * of.scale : 0.0F;
  }
}

// For heads whose dim is no multiple of anything.
void attend_any(void* plan, std::size_t i) { attend_block<1, 1>(*static_cast<const Plan*>(plan), i); }

Threads::Function attend_for(std::size_t dim, const Table& with) {
  if (dim % with.lanes == 0) return with.attend;
  return dim % baseline_table.lanes == 0 ? baseline_table.attend : attend_any;
}

}  // namespace

void attend(const SlateAttention& attention, const Threads& threads, const Table& with) {
  static thread_local std::vector<std::size_t> begins;
  static thread_local std::vector<float> keys;
  if (attention.tokens == 0) return;
  begins.resize(std::max(begins.size(), attention.tokens));
  begins[0] = 0;
  for (std::size_t t = 1; t < attention.tokens; ++t)
    begins[t] = attention.groups[t] == attention.groups[t - 1] ? begins[t - 1] : t;

  const std::size_t shared = attention.heads / attention.kv_heads;
  const std::size_t block_tokens = std::max<std::size_t>(1, block_rows / shared);
  const std::size_t own = round_up(attention.prefix, widest), columns = round_up(own + attention.tokens + widest, widest);
  const std::size_t blocks = (attention.tokens + block_tokens - 1) / block_tokens;
  const std::size_t packs = (columns + pack_columns - 1) / pack_columns;
  keys.resize(std::max(keys.size(), attention.kv_heads * attention.dim * columns));
  Plan plan{attention, shared, block_tokens, blocks, own, columns, packs, begins.data(), keys.data()};
  threads.run(pack_keys, attention.kv_heads * packs, &plan);
  threads.run(attend_for(attention.dim, with), attention.kv_heads * blocks, &plan);
}

}  // namespace rexit::core::kernels

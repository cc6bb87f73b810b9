// Attention of a packed slate: a token sees the whole prefix and the earlier tokens of its own candidate, and nothing is
// computed for what it does not see. The same for a prefix by itself, which is one candidate without a prefix.
//
// Blocks of tokens, with all query heads that share keys, are taken one after another: scores to the prefix and to their own
// candidates side by side, softmax, product with the values. A block's scores stay in the processor's own cache; ONNX Runtime's
// operators write the scores of all tokens to memory, and read and write them again in every step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"

namespace rexit::core::kernels {

// All float32 and dense: query and out [heads, tokens, dim], key and value [kv_heads, tokens, dim], past ones
// [kv_heads, prefix, dim]. groups [tokens]: candidates are runs of one number. heads is a multiple of kv_heads.
struct SlateAttention {
  const float *query, *key, *value, *past_key, *past_value;
  const std::int64_t* groups;
  float* out;
  std::size_t heads, kv_heads, tokens, prefix, dim;
  float scale;
};

// Memory it needs is kept by the threads that ran it, for their next call.
void attend(const SlateAttention& attention, const Threads& threads, const Table& with = table());

}  // namespace rexit::core::kernels

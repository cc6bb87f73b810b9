// Attention of a packed slate: a token attends to the whole prefix and to its own candidate's tokens up to itself, in an encoder
// to all of its candidate's. Nothing is computed for other candidates. A prefix alone is a candidate without a prefix.
//
// A task handles a block of tokens with all query heads that share a key head: scores against the prefix and against the tokens'
// own candidates, softmax, product with the values. A block's scores stay in a core's private cache. ONNX Runtime's operators
// write the scores of all tokens to memory, and read and write them again in every step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"

namespace rexit::core::kernels {

// Keys or values, in float32, or in float16 as bits. At most one pointer is set.
struct Stored {
  Stored(std::nullptr_t) {}
  Stored(const float* from) : floats(from) {}
  Stored(const std::uint16_t* from) : halves(from) {}

  const float* floats = nullptr;
  const std::uint16_t* halves = nullptr;
};

// All dense: query and out [heads, tokens, dim], key and value [kv_heads, tokens, dim], past_key and past_value [kv_heads,
// prefix, dim]. With `tokens_first` [tokens, heads, dim] and [tokens, kv_heads, dim], without a prefix. groups [tokens]: a
// candidate is a run of equal numbers. heads is a multiple of kv_heads.
//
// With `bfloat16` queries, keys, values and the softmax's numerators are rounded to it. The products are exact then, and scores
// and sums stay float32.
//
// window: 0: causal. Else a token attends to its candidate's tokens on both sides that are fewer than `window` away. An encoder's
// slate has no prefix; the window does not apply to one.
//
// A token's result is the same to the bit wherever the boundary between past and new tokens lies, if both are stored in one type.
struct SlateAttention {
  const float* query;
  Stored key, value, past_key, past_value;
  const std::int64_t* groups;
  float* out;
  std::size_t heads, kv_heads, tokens, prefix, dim;
  float scale;
  bool bfloat16 = false;
  std::size_t window = 0;
  bool tokens_first = false;

  // The row of a token of one of `count` heads, in query, key, value or out.
  std::size_t row(std::size_t head, std::size_t token, std::size_t count) const {
    return tokens_first ? token * count + head : head * tokens + token;
  }
};

void attend(const SlateAttention& attention, const Threads& threads, const Table& with = table());

}  // namespace rexit::core::kernels

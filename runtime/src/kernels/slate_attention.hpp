// Attention of a packed slate: a token sees the whole prefix and the tokens of its own candidate up to itself, and nothing is
// computed for what it does not see. A prefix by itself is one candidate without a prefix.
//
// One task handles a block of tokens with all query heads that share a key head: scores against the prefix and, next to them,
// against the tokens' own candidates; softmax; product with the values. A block's scores stay in a core's own cache, whereas ONNX
// Runtime's operators write the scores of all tokens to memory, and read and write them again in every step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"

namespace rexit::core::kernels {

// Keys or values in float32, in float16 as their bits, or in int8: then each row, a token's in one head, has one number more, the
// exponent of its scale (scale_of). Without an address in any of them.
struct Stored {
  Stored(std::nullptr_t) {}
  Stored(const float* from) : floats(from) {}
  Stored(const std::uint16_t* from) : halves(from) {}
  Stored(const std::int8_t* from) : bytes(from) {}

  const float* floats = nullptr;
  const std::uint16_t* halves = nullptr;
  const std::int8_t* bytes = nullptr;
};

// All dense: query and out [heads, tokens, dim], key and value [kv_heads, tokens, dim], past_key and past_value [kv_heads,
// prefix, dim]. groups [tokens]: a candidate is a run of equal numbers. heads is a multiple of kv_heads.
//
// A token's numbers are the same to the bit however many of the tokens it sees are past ones, if these are stored as the others
// are.
struct SlateAttention {
  const float* query;
  Stored key, value, past_key, past_value;
  const std::int64_t* groups;
  float* out;
  std::size_t heads, kv_heads, tokens, prefix, dim;
  float scale;
};

void attend(const SlateAttention& attention, const Threads& threads, const Table& with = table());

}  // namespace rexit::core::kernels

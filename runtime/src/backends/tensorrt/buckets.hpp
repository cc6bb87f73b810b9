// Buckets: passes padded to a few sizes, so that a CUDA graph serves many passes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backends/backend.hpp"
#include "backends/segment_tensors.hpp"
#include "bundle/engines.hpp"

namespace rexit::core {

// T, P', N and R of a pass. P' counts rows of the past: the prefix and padding behind it, at least 1. R is 0 if the segment takes
// no vectors.
struct PassSizes {
  std::size_t tokens, prefix, rows, vectors;

  std::size_t of(Dynamic dynamic) const noexcept {
    switch (dynamic) {
      case Dynamic::tokens:
        return tokens;
      case Dynamic::prefix:
        return prefix;
      case Dynamic::rows:
        return rows;
      case Dynamic::vectors:
        break;
    }
    return vectors;
  }
};

// The least sizes that an engine accepts: without a prefix, a row of padding is its past.
inline PassSizes sizes_of(const Pass& pass) noexcept {
  return {pass.tokens, std::max<std::size_t>(pass.prefix, 1), pass.rows, pass.vector_rows};
}

// Rounds sizes up, at most to the maxima of `profile`. N follows T: a head costs little, so that fewer sizes are worth more.
PassSizes bucket_of(const PassSizes& sizes, const OptimizationProfile& profile) noexcept;

// Writes the pass's indices, padded to T and N of `sizes`. Padding tokens form a separate group, so that no candidate attends to
// them; their hidden states must be finite, since attention multiplies them by 0. Padding rows read an existing token.
// `token_ids` null: not the first segment. No padding token refers to a vector, so nothing reads padding vectors.
void pad_indices(const Pass& pass, const PassSizes& sizes, std::int64_t* token_ids, std::int64_t* positions, std::int64_t* groups,
                 std::int64_t* rows) noexcept;

}  // namespace rexit::core

// Passes padded to a few sizes, so that what is prepared for one size serves many passes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/backend.hpp"

namespace rexit::core {

// T, P and N of a pass.
struct PassSizes {
  std::size_t tokens, prefix, rows;
};

// T and N rounded up, up to their maximum. P stays: every token sees the whole prefix, so it cannot be padded.
PassSizes bucket_of(const PassSizes& sizes, std::size_t max_tokens, std::size_t max_rows) noexcept;

// Writes the pass's indices, padded to T and N of `sizes`. Padding tokens are a group of their own, so that no candidate sees
// them; their hidden states must be finite, since attention multiplies them by 0. Padding rows read an existing token.
// `token_ids` null: not the first segment.
void pad_indices(const Pass& pass, const PassSizes& sizes, std::int64_t* token_ids, std::int64_t* positions, std::int64_t* groups,
                 std::int64_t* rows) noexcept;

}  // namespace rexit::core

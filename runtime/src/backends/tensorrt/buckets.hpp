// Passes filled up to sizes of which there are few, so that what is prepared for one serves many.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/backend.hpp"

namespace rexit::core {

// T, P and N of a pass.
struct PassSizes {
  std::size_t tokens, prefix, rows;
};

// T and N rounded up, but not beyond the most there may be. P stays: every token sees the whole prefix, so nothing can fill it
// up.
PassSizes bucket_of(const PassSizes& sizes, std::size_t most_tokens, std::size_t most_rows) noexcept;

// The pass's indices for T and N of `sizes`, into places for that many. Padding tokens are a group of their own, so no candidate
// sees them; their hidden states must be finite, as attention multiplies them by 0. Padding rows read a token that is there.
// `token_ids` null: not the first segment.
void pad_indices(const Pass& pass, const PassSizes& sizes, std::int64_t* token_ids, std::int64_t* positions, std::int64_t* groups,
                 std::int64_t* rows) noexcept;

}  // namespace rexit::core

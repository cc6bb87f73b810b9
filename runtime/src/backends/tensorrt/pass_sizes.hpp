// The sizes of a pass, as an engine counts them.
#pragma once

#include <algorithm>
#include <cstddef>

#include "backends/backend.hpp"
#include "backends/segment_tensors.hpp"

namespace rexit::core {

// T, P', N and R of a pass. P' counts rows of the past: the prefix and padding behind it, at least 1. R is 0 if the segment takes
// no vectors.
struct PassSizes {
  std::size_t tokens, prefix, rows, vectors;

  std::size_t size(Dynamic dynamic) const noexcept {
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

// Without a prefix a row of padding is the past.
inline PassSizes sizes_of(const Pass& pass) noexcept {
  return {pass.tokens, std::max<std::size_t>(pass.prefix, 1), pass.rows, pass.vector_rows};
}

}  // namespace rexit::core

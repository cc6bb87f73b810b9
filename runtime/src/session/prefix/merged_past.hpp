// Prefixes of several requests side by side, as the past of a single pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/prefix/prefix_cache.hpp"

namespace rexit::core {

// A copy: the requests' prefixes may leave the cache before the pass runs. Passes reuse its memory.
class MergedPast {
 public:
  // Both must outlive the object.
  MergedPast(const Bundle& bundle, const Backend& backend)
      : bundle_(bundle),
        layout_(bundle, backend),
        memory_(backend),
        keys_(bundle.model().layers),
        values_(bundle.model().layers) {}

  // Rows that a prefix takes: in bfloat16 the kernel wants each to begin at an even row.
  static std::size_t rows_of(std::size_t tokens) noexcept { return tokens + tokens % 2; }
  // Begins the past of a pass of `segment`, with room for prefixes of `tokens` rows together, as rows_of() says.
  void begin(std::size_t segment, std::size_t tokens) {
    segment_ = segment;
    tokens_ = tokens;
    used_ = 0;
    memory_.reserve(layout_.block_bytes(segment, tokens));
    const Tensors tensors = layout_.tensors_of(memory_, segment, tokens);
    for (std::size_t i = 0; i < bundle_.variant().segments[segment].layers(); ++i) {
      keys_[i] = tensors.data + 2 * i * tensors.stride;
      values_[i] = tensors.data + (2 * i + 1) * tensors.stride;
    }
  }
  // Appends the cache's current prefix, which must be ready. Returns the row at which it begins.
  std::size_t add(const PrefixCache& cache) {
    const std::size_t begin = used_;
    Tensors to = layout_.tensors_of(memory_, segment_, tokens_);
    to.data += begin * layout_.row(segment_);
    cache.copy_current(segment_, to);
    used_ += rows_of(cache.tokens());
    return begin;
  }

  // Rows between two prefixes, and behind the last, are unset.
  std::size_t tokens() const noexcept { return tokens_; }
  const void* const* keys() const noexcept { return keys_.data(); }
  const void* const* values() const noexcept { return values_.data(); }
  std::size_t bytes() const noexcept { return memory_.bytes() + 2 * keys_.capacity() * sizeof(void*); }

 private:
  const Bundle& bundle_;
  const PrefixLayout layout_;
  Block memory_;
  std::vector<const void*> keys_, values_;  // by layer of the segment
  std::size_t segment_ = 0, tokens_ = 0, used_ = 0;
};

}  // namespace rexit::core

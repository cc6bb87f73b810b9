// Prefixes of earlier requests, and the current one: it reuses a common start and grows to the depth that candidates need.
// PrefixLookup finds the start, PrefixStore evicts, PrefixComputation runs segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/passes/vector_rows.hpp"
#include "session/prefix/pinned_start.hpp"
#include "session/prefix/prefix.hpp"
#include "session/prefix/prefix_computation.hpp"
#include "session/prefix/prefix_source.hpp"
#include "session/prefix/prefix_store.hpp"

namespace rexit::core {

// Caches the keys and values of every computed layer, and the hidden states that the next segment reads. Most functions are about
// the current prefix.
class PrefixCache {
 public:
  // All must outlive the cache. `vectors`: those of the current request. `budget`: bytes of all prefixes together; the current
  // prefix stays even if it alone is larger. `start`: null: no pinned start.
  PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget,
              const PinnedStart* start = nullptr);

  // Makes `tokens` the current prefix. Returns how many leading tokens have been computed, by at least a segment: all if it is
  // cached; else those in common with a cached prefix or the pinned start, unless too few to save time. The common start is
  // copied at the depth of its source, or taken over with the memory of a source that must be evicted. Only the rest is computed.
  std::size_t set_current(const std::int32_t* tokens, std::size_t count);
  // Drops all prefixes except the pinned start, and keeps their memory for later prefixes.
  void clear() noexcept;

  std::size_t tokens() const noexcept { return current_->tokens.size(); }
  bool ready(std::size_t segment) const noexcept { return current_->computed_tokens[segment] == current_->tokens.size(); }
  // Computes the next missing segment and returns its number of layers.
  std::size_t deepen();
  // By layer of a ready segment; see Pass.
  const void* const* keys(std::size_t segment) const noexcept { return addresses_.keys(segment); }
  const void* const* values(std::size_t segment) const noexcept { return addresses_.values(segment); }

  const Prefix& current() const noexcept { return *current_; }
  const PrefixLayout& layout() const noexcept { return layout_; }

  // Bytes in total, and of the prefixes alone, which the budget limits. Without the pinned start.
  std::size_t memory() const noexcept { return prefix_bytes() + computation_.bytes(); }
  std::size_t prefix_bytes() const noexcept { return store_.bytes(); }

 private:
  void use(Prefix& entry) noexcept;
  void release_oversized_blocks(Prefix& entry, bool keep_shared);
  void copy_start(Prefix& entry, const PrefixSource& source);
  void copy_keys_and_values(Prefix& entry, const PrefixSource& source, std::size_t segment);
  void copy_hidden_states(Prefix& entry, const PrefixSource& source);

  const Bundle& bundle_;
  const Backend& backend_;
  const VectorRows& vectors_;
  const PrefixLayout layout_;
  const PrefixLookup lookup_;
  PrefixStore store_;
  Prefix empty_;
  Prefix* current_;                         // an entry of store_, or empty_
  std::vector<std::size_t> shared_tokens_;  // [segments]: leading tokens that the current prefix takes from its source
  CacheAddresses addresses_;                // those of the current prefix
  PrefixComputation computation_;
};

}  // namespace rexit::core

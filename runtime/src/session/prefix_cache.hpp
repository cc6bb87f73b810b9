// Prefixes of earlier requests, and the current one: it reuses a common start and grows to the depth that candidates need.
// PrefixLookup finds the start, PrefixStore evicts, PrefixComputation runs segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/prefix.hpp"

namespace rexit::core {

// The memory of cached prefixes: a budget, and the order of eviction. Evicts first a superseded prefix, then the least recently
// used one. A prefix is superseded if a later one contains all of its tokens except at most a few at the end, as the prefix of a
// user with a newer interaction does.
class PrefixStore {
 public:
  // `bundle`, `backend` and `layout` must outlive the store. `budget`: bytes of all prefixes together.
  PrefixStore(const Bundle& bundle, const Backend& backend, const PrefixLayout& layout, std::size_t budget)
      : bundle_(bundle), backend_(backend), layout_(layout), budget_(budget) {}

  const std::vector<std::unique_ptr<Prefix>>& entries() const noexcept { return entries_; }

  // Marks an entry as the most recently used. It is not evicted until the next use() or end_use(), even if it alone exceeds the
  // budget.
  void use(Prefix& entry) noexcept;
  void end_use() noexcept { in_use_ = nullptr; }

  // An entry for a prefix of `tokens` tokens: a free one; a new one, if the budget has room; else the first to evict. None may be
  // in use.
  Prefix& acquire_entry(std::size_t tokens);
  // Evicts until `bytes` more fit into the budget, or only the entry in use and `source` are left. `source` may be null.
  void evict_for(std::size_t bytes, const Prefix* source);
  // Grows a block of the entry in use to at least `bytes`, and evicts for it. A block that grows loses its contents.
  void reserve(Block& block, std::size_t bytes, const Prefix* source);
  // Releases a block much larger than `bytes`.
  void release_if_oversized(Block& block, std::size_t bytes) const;

  // Frees all entries and keeps their memory for later prefixes.
  void clear() noexcept;
  std::size_t bytes() const noexcept;

 private:
  Prefix* first_to_evict(const Prefix* source) const noexcept;

  const Bundle& bundle_;
  const Backend& backend_;
  const PrefixLayout& layout_;
  const std::size_t budget_;
  std::vector<std::unique_ptr<Prefix>> entries_;
  const Prefix* in_use_ = nullptr;
  std::uint64_t uses_ = 0;
};

// From which a new prefix takes its start: a cached prefix (`prefix`), the pinned start (`packed`) or nothing. Then both are null
// and `shared_tokens` is 0.
struct PrefixSource {
  Prefix* prefix = nullptr;
  const PackedPrefix* packed = nullptr;
  std::size_t shared_tokens = 0;  // in common with the new prefix
  std::size_t prefix_tokens = 0;  // the length of `prefix`, which the new prefix may overwrite
  bool identical = false;         // the prefix is cached

  // Leading tokens in common that the source has computed.
  std::size_t shared_tokens_of(std::size_t segment) const noexcept;
  Tensors tensors_of(const PrefixLayout& layout, std::size_t segment) const;
};

class PrefixLookup {
 public:
  // All must outlive the look-up. `start`: null: no pinned start.
  PrefixLookup(const Bundle& bundle, const PinnedStart* start) : bundle_(bundle), start_(start) {}

  // The source that saves the most work for a prefix of `count` tokens; nothing if too few tokens are in common to save time.
  PrefixSource find(const std::vector<std::unique_ptr<Prefix>>& entries, const std::int32_t* tokens, std::size_t count) const;

 private:
  std::size_t common_length(const std::vector<std::int64_t>& cached, const std::int32_t* tokens,
                            std::size_t count) const noexcept;
  std::size_t saved_token_layers(const std::vector<std::size_t>& computed_tokens, std::size_t count) const noexcept;
  const PackedPrefix* matching_start(const std::int32_t* tokens, std::size_t count) const;

  const Bundle& bundle_;
  const PinnedStart* start_;
};

// Addresses of a prefix's keys and values, by segment and layer, as Pass takes them.
class CacheAddresses {
 public:
  explicit CacheAddresses(const Bundle& bundle);

  void set(const Prefix& prefix, std::size_t segment, const PrefixLayout& layout) noexcept;
  void* const* keys(std::size_t segment) const noexcept { return keys_[segment].data(); }
  void* const* values(std::size_t segment) const noexcept { return values_[segment].data(); }

 private:
  std::vector<std::vector<void*>> keys_, values_;  // [segments][layers]
};

// A segment that no token has computed yet writes keys and values where they stay. Behind computed tokens it cannot: a pass reads
// and writes heads without gaps, and in the prefix's block each has room for all tokens. So they go through a scratch block:
//
//   a tensor of the prefix    head 0: past, new   head 1: past, new   …
//                                       |    ^
//                             copy_past v    | copy_new
//   scratch                   the past of every tensor, then the new rows of every tensor, each [heads, rows]
//
class PrefixComputation {
 public:
  // All must outlive the computation. `addresses`: those of the prefix in use.
  PrefixComputation(const Bundle& bundle, const Backend& backend, const PrefixLayout& layout, PrefixStore& store,
                    CacheAddresses& addresses)
      : bundle_(bundle),
        backend_(backend),
        layout_(layout),
        store_(store),
        addresses_(addresses),
        hidden_out_(backend),
        scratch_(backend) {}

  // Computes a segment of `prefix`, which must be in use, for the tokens behind computed_tokens[segment].
  void compute(Prefix& prefix, std::size_t segment);

  // Buffers that compute() overwrites: a prefix's hidden states and a segment's keys and values.
  Block& hidden_buffer() noexcept { return hidden_out_; }
  Block& cache_buffer() noexcept { return scratch_; }
  void release_oversized_buffers(std::size_t prefix_tokens);
  std::size_t bytes() const noexcept;

 private:
  void compute_all(Prefix& prefix, std::size_t segment);
  void compute_rest(Prefix& prefix, std::size_t segment, std::size_t from);
  void lay_out_scratch(std::size_t segment, std::size_t from, std::size_t total);
  void copy_past(std::size_t segment, std::size_t from, std::size_t total) const;
  void copy_new(std::size_t segment, std::size_t from, std::size_t total) const;
  void run(Prefix& prefix, std::size_t segment, std::size_t from, Pass pass);

  const Bundle& bundle_;
  const Backend& backend_;
  const PrefixLayout& layout_;
  PrefixStore& store_;
  CacheAddresses& addresses_;
  std::vector<std::int64_t> positions_, groups_;
  Block hidden_out_, scratch_;                                          // outputs of a pass before they move to the prefix
  std::vector<void*> past_keys_, past_values_, new_keys_, new_values_;  // addresses in scratch_
};

// Caches the keys and values of every computed layer, and the hidden states that the next segment reads. Most functions are about
// the current prefix.
class PrefixCache {
 public:
  // All must outlive the cache. `budget`: bytes of all prefixes together; the current
  // prefix stays even if it alone is larger. `start`: null: no pinned start.
  PrefixCache(const Bundle& bundle, const Backend& backend, std::size_t budget, const PinnedStart* start = nullptr);

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

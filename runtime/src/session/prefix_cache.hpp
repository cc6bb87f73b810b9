// Prefixes of earlier requests, each as deep as a candidate has needed it so far.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/vector_rows.hpp"

namespace rexit::core {

// Holds prefixes within a budget and evicts the least recently used. Of each it holds the keys and values of every layer computed
// so far, and the hidden state behind the deepest segment, from which the next segment is computed once some candidate gets
// there. One prefix is in use; the rest of the interface is about that one.
class PrefixCache {
 public:
  // All must outlive the cache. `vectors`: of the request whose prefix is in use. `budget`: bytes for all prefixes together; the
  // one in use is kept even if it alone is larger.
  PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget);

  // Makes `tokens` the prefix in use. Returns how many of its first tokens are already computed, in at least one segment: all of
  // them if it is cached; otherwise those it has in common with a cached one, if they are at least a quarter. Those are copied,
  // or taken over where the budget has no room for both, and only the tokens behind them are computed, as deep as the other one
  // was.
  std::size_t use(const std::int32_t* tokens, std::size_t count);
  // Drops all prefixes; their memory is kept for others.
  void clear() noexcept;

  std::size_t tokens() const noexcept { return used_->tokens.size(); }
  bool ready(std::size_t segment) const noexcept { return used_->tokens.empty() || used_->depth > segment; }
  // Computes the next missing segment and returns its number of layers.
  std::size_t deepen();

  // Per layer of a segment that is ready; see Pass.
  const void* const* keys(std::size_t segment) const noexcept {
    return const_cast<const void* const*>(used_->segments[segment].keys.data());
  }
  const void* const* values(std::size_t segment) const noexcept {
    return const_cast<const void* const*>(used_->segments[segment].values.data());
  }

  // Bytes held: in all, and by the prefixes alone, which is what the budget limits.
  std::size_t memory() const noexcept;
  std::size_t prefixes() const noexcept;

 private:
  struct Cached {  // a segment's keys and values, [kv_heads, tokens, head_dim] each
    explicit Cached(const Backend& backend) : block(backend) {}
    Block block;
    std::vector<void*> keys, values;
  };
  struct Entry {
    explicit Entry(const Backend& backend) : hidden(backend) {}
    std::vector<std::int64_t> tokens;  // keys of VectorRows; empty: the entry is free
    std::size_t depth = 0;             // segments computed for all tokens
    std::size_t shared = 0;            // so many first tokens are copied from another prefix, `shared_depth` segments deep
    std::size_t shared_depth = 0;
    std::uint64_t last_use = 0;
    Block hidden;  // [tokens, H]: the shared ones behind segment shared_depth, the others behind segment depth
    std::vector<Cached> segments;
  };

  Entry& place_for(std::size_t count, const Entry* source);
  Entry* least_recent(const Entry* kept) const noexcept;
  void hold_budget(std::size_t more, const Entry* kept);
  void lay_out(Entry& entry, std::size_t segment, const Entry* kept);
  void fit(Block& block, std::size_t bytes) const;
  void trim(Entry& entry, std::size_t kept);
  static std::size_t depth_of(const Entry& entry, std::size_t count) noexcept;
  void copy_shared(Entry& to, Entry& from, std::size_t held, std::size_t count, std::size_t depth);
  void compute(std::size_t segment);
  void compute_behind(std::size_t segment, std::size_t from);
  void lay_out_parts(std::size_t segment, std::size_t from);
  void run(std::size_t segment, std::size_t from, Pass pass);
  std::size_t stride(std::size_t segment, std::size_t tokens) const;  // bytes from one tensor to the next
  std::size_t block_bytes(std::size_t segment, std::size_t tokens) const;
  static std::size_t bytes_of_entry(const Entry& entry) noexcept;
  std::size_t row_bytes() const noexcept;

  const Bundle& bundle_;
  const Backend& backend_;
  VectorRows& vectors_;
  const std::size_t budget_;
  std::vector<std::unique_ptr<Entry>> entries_;
  Entry none_;   // the empty prefix
  Entry* used_;  // one of entries_ or none_
  std::uint64_t uses_ = 0;
  std::vector<std::int64_t> positions_, groups_;
  Block hidden_next_, parts_;                                           // what a pass writes before it is put in place
  std::vector<void*> past_keys_, past_values_, new_keys_, new_values_;  // into parts_
};

}  // namespace rexit::core

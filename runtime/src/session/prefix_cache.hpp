// Prefixes of earlier requests, each as deep as a candidate has needed it so far.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

// Holds prefixes, the least recently used ones giving way when a budget is spent. Of each: keys and values of every layer
// computed, and the hidden state behind the deepest segment, from which the next segment can be computed when some candidate gets
// there. One of them is in use; the rest of the interface is about that one.
class PrefixCache {
 public:
  // Both must outlive the cache. `budget`: bytes for all prefixes together; the one in use is held even if it alone is larger.
  PrefixCache(const Bundle& bundle, const Backend& backend, std::size_t budget);

  // Makes `tokens` the prefix in use. Returns how many of its first tokens are computed already, in one segment at least: all of
  // them for a prefix that is held; else those it shares with the start of a held one, if they are a quarter of it or more. Those
  // are copied, or taken over where the budget has no room for both, and only what comes behind them is computed, as deep as the
  // other one was.
  std::size_t use(const std::int32_t* tokens, std::size_t count);
  // Forgets all prefixes; their memory waits for others.
  void clear() noexcept;

  std::size_t tokens() const noexcept { return used_->tokens.size(); }
  bool ready(std::size_t segment) const noexcept { return used_->tokens.empty() || used_->depth > segment; }
  // Computes the next segment that is missing and returns its number of layers.
  std::size_t deepen();

  // Per layer of a segment that is ready; see Pass.
  const void* const* keys(std::size_t segment) const noexcept {
    return const_cast<const void* const*>(used_->segments[segment].keys.data());
  }
  const void* const* values(std::size_t segment) const noexcept {
    return const_cast<const void* const*>(used_->segments[segment].values.data());
  }

  // Bytes held; `prefixes`: of the prefixes alone, what the budget is about.
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
    std::vector<std::int64_t> tokens;  // none: free
    std::size_t depth = 0;             // segments computed for all tokens
    std::size_t shared = 0;            // the first tokens, for which `shared_depth` segments are
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
  void run(std::size_t segment, std::size_t from);
  std::size_t stride(std::size_t segment, std::size_t tokens) const;  // from one tensor to the next
  std::size_t block_bytes(std::size_t segment, std::size_t tokens) const;
  static std::size_t bytes_of_entry(const Entry& entry) noexcept;
  std::size_t row_bytes() const noexcept;

  const Bundle& bundle_;
  const Backend& backend_;
  const std::size_t budget_;
  std::vector<std::unique_ptr<Entry>> entries_;
  Entry none_;   // the empty prefix
  Entry* used_;  // one of entries_ or none_
  std::uint64_t uses_ = 0;
  std::vector<std::int64_t> positions_, groups_;
  Block hidden_next_, parts_;                                           // what a pass writes, before it is put in place
  std::vector<void*> past_keys_, past_values_, new_keys_, new_values_;  // into parts_
};

}  // namespace rexit::core

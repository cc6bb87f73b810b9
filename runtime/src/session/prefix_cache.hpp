// Prefixes of earlier requests, each as deep as a candidate has needed it so far.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/pinned_start.hpp"
#include "session/prefix.hpp"
#include "session/vector_rows.hpp"

namespace rexit::core {

// Holds prefixes within a budget. Of each it holds the keys and values of every layer computed so far, and the hidden states from
// which the next segment is computed once some candidate gets there. One prefix is in use; most of the interface is about that
// one. What goes first when there is no room:
// 1. a prefix that is covered: one made from it later has all its tokens, but for at most a few at the end, as the prefix of a
//    user who has interacted since has;
// 2. among those, and then among all others, the least recently used.
class PrefixCache {
 public:
  // All must outlive the cache. `vectors`: of the request whose prefix is in use. `budget`: bytes for all prefixes together; the
  // one in use is kept even if it alone is larger. `start`: null: none.
  PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget,
              const PinnedStart* start = nullptr);

  // Makes `tokens` the prefix in use. Returns how many of its first tokens are already computed, in at least one segment: all of
  // them if it is cached; otherwise those it has in common with a cached one or with the pinned start, unless they are too few
  // to gain by it. Those are copied, or taken over if the other one has to go, each as deep as it is there, and only what is
  // missing is computed.
  std::size_t use(const std::int32_t* tokens, std::size_t count);
  // Drops all prefixes but the pinned start; their memory is kept for others.
  void clear() noexcept;

  std::size_t tokens() const noexcept { return used_->tokens.size(); }
  bool ready(std::size_t segment) const noexcept { return used_->held[segment] == used_->tokens.size(); }
  // Computes the next missing segment and returns its number of layers.
  std::size_t deepen();

  // Per layer of a segment that is ready; see Pass.
  const void* const* keys(std::size_t segment) const noexcept { return keys_[segment].data(); }
  const void* const* values(std::size_t segment) const noexcept { return values_[segment].data(); }

  // All prefixes of which something is computed, those that would go last first. Valid until the next call of use() or load().
  std::vector<const Prefix*> by_use() const;
  const PrefixLayout& layout() const noexcept { return layout_; }
  // Replaces all prefixes by these, as many as the budget holds: those that come first. None is in use then. If it throws,
  // nothing has changed.
  void load(const std::vector<PackedPrefix>& prefixes);

  // Bytes held: in all, and by the prefixes alone, which is what the budget limits. The pinned start is not among them.
  std::size_t memory() const noexcept;
  std::size_t prefixes() const noexcept;

 private:
  struct Source;
  std::size_t saved(const std::vector<std::size_t>& held, std::size_t count) const noexcept;
  const PackedPrefix* start_of(const std::int32_t* tokens, std::size_t count, std::size_t most) const;
  void start_using(Prefix& entry) noexcept;
  void point_to(std::size_t segment) noexcept;
  Prefix& place_for(std::size_t count);
  Prefix* first_to_go(const Prefix* kept) const noexcept;
  void hold_budget(std::size_t more, const Prefix* kept);
  void take(Prefix& entry, const Source& source);
  void reserve(Block& block, std::size_t bytes, const Prefix* kept);
  void fit(Block& block, std::size_t bytes) const;
  void trim(Prefix& entry, bool keeps);
  void compute(std::size_t segment);
  void compute_behind(std::size_t segment, std::size_t from);
  void lay_out_parts(std::size_t segment, std::size_t from);
  void run(std::size_t segment, std::size_t from, Pass pass);

  const Bundle& bundle_;
  const Backend& backend_;
  VectorRows& vectors_;
  const std::size_t budget_;
  const PinnedStart* start_;
  const PrefixLayout layout_;
  std::vector<std::unique_ptr<Prefix>> entries_;
  Prefix none_;   // the empty prefix
  Prefix* used_;  // one of entries_ or none_
  std::uint64_t uses_ = 0;
  std::vector<std::size_t> shared_;                // of so many first tokens of that one a segment is copied
  std::vector<std::vector<void*>> keys_, values_;  // of the prefix in use, [segments][layers]
  std::vector<std::int64_t> positions_, groups_;
  Block hidden_next_, parts_;                                           // what a pass writes before it is put in place
  std::vector<void*> past_keys_, past_values_, new_keys_, new_values_;  // into parts_
};

}  // namespace rexit::core

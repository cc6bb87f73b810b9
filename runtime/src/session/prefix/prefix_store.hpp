// The memory of cached prefixes: a budget, and the order of eviction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/prefix/prefix.hpp"

namespace rexit::core {

// Evicts first a superseded prefix, then the least recently used one. A prefix is superseded if a later one contains all of its
// tokens except at most a few at the end, as the prefix of a user with a newer interaction does.
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

}  // namespace rexit::core

#include "session/prefix/prefix_store.hpp"

#include <algorithm>
#include <tuple>

namespace rexit::core {
namespace {

constexpr std::size_t max_oversize = 4;  // an entry keeps a block of up to this many times the bytes it needs

}  // namespace

void PrefixStore::use(Prefix& entry) noexcept {
  in_use_ = &entry;
  entry.last_use = ++uses_;
  entry.superseded = false;
}

Prefix& PrefixStore::acquire_entry(std::size_t tokens) {
  // A new entry will become as deep as the deepest and as large as the largest.
  std::size_t depth = 1, largest = 0;
  for (const auto& entry : entries_) {
    if (entry->tokens.empty()) return *entry;
    depth = std::max(depth, entry->depth());
    largest = std::max(largest, entry->bytes());
  }
  std::size_t needed = tokens * layout_.hidden_row();
  for (std::size_t k = 0; k < depth; ++k) needed += layout_.block_bytes(k, tokens);
  needed = std::max(needed, largest);
  if (!entries_.empty() && bytes() + needed > budget_) return *first_to_evict(nullptr);
  entries_.push_back(std::make_unique<Prefix>(bundle_, backend_));
  return *entries_.back();
}

// Null if only the entry in use and `source` are left. Free entries come first.
Prefix* PrefixStore::first_to_evict(const Prefix* source) const noexcept {
  const auto order = [](const Prefix& entry) { return std::tuple(!entry.tokens.empty(), !entry.superseded, entry.last_use); };
  Prefix* first = nullptr;
  for (const auto& entry : entries_) {
    if (entry.get() == in_use_ || entry.get() == source) continue;
    if (first == nullptr || order(*entry) < order(*first)) first = entry.get();
  }
  return first;
}

void PrefixStore::evict_for(std::size_t more, const Prefix* source) {
  while (bytes() + more > budget_) {
    const Prefix* victim = first_to_evict(source);
    if (victim == nullptr) return;
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.get() == victim; }));
  }
}

void PrefixStore::reserve(Block& block, std::size_t bytes, const Prefix* source) {
  release_if_oversized(block, bytes);
  if (bytes > block.bytes()) evict_for(bytes - block.bytes(), source);
  block.reserve(bytes);
}

void PrefixStore::release_if_oversized(Block& block, std::size_t bytes) const {
  if (block.bytes() / max_oversize > bytes) Block(backend_).swap(block);
}

void PrefixStore::clear() noexcept {
  in_use_ = nullptr;
  for (const auto& entry : entries_) entry->tokens.clear();
}

std::size_t PrefixStore::bytes() const noexcept {
  std::size_t sum = 0;
  for (const auto& entry : entries_) sum += entry->bytes();
  return sum;
}

}  // namespace rexit::core

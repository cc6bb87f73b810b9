// The prefix of the last request, as deep as a candidate has needed it so far.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.hpp"
#include "bundle.hpp"
#include "clock.hpp"

namespace rexit::core {

// Holds one prefix: keys and values of every layer computed, and the hidden state behind the deepest segment, from which the
// next segment can be computed when some candidate gets there.
class PrefixCache {
 public:
  // Both must outlive the cache.
  PrefixCache(const Bundle& bundle, const Backend& backend);

  // Makes `tokens` the prefix. True when it already was, and something of it is computed.
  bool use(const std::int32_t* tokens, std::size_t count);
  void clear() noexcept { depth_ = 0; }

  std::size_t tokens() const noexcept { return tokens_.size(); }
  bool ready(std::size_t segment) const noexcept { return tokens_.empty() || depth_ > segment; }
  // Computes the next segment that is missing and returns its number of layers.
  std::size_t deepen();

  // Per layer of a segment that is ready; see Pass.
  const void* const* keys(std::size_t segment) const noexcept { return const_cast<const void* const*>(keys_[segment].data()); }
  const void* const* values(std::size_t segment) const noexcept {
    return const_cast<const void* const*>(values_[segment].data());
  }

  std::size_t memory() const noexcept;

 private:
  const Bundle& bundle_;
  const Backend& backend_;
  std::vector<std::int64_t> tokens_, positions_, groups_;
  std::size_t depth_ = 0;  // segments computed
  Block hidden_, hidden_next_;
  std::vector<Block> caches_;  // one a segment
  std::vector<std::vector<void*>> keys_, values_;
};

}  // namespace rexit::core

// Computes segments of a prefix, whole or behind the tokens that are already computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "session/passes/vector_rows.hpp"
#include "session/prefix/prefix.hpp"
#include "session/prefix/prefix_store.hpp"

namespace rexit::core {

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
  PrefixComputation(const Bundle& bundle, const Backend& backend, VectorRows& vectors, const PrefixLayout& layout,
                    PrefixStore& store, CacheAddresses& addresses)
      : bundle_(bundle),
        backend_(backend),
        vectors_(vectors),
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
  VectorRows& vectors_;
  const PrefixLayout& layout_;
  PrefixStore& store_;
  CacheAddresses& addresses_;
  std::vector<std::int64_t> positions_, groups_;
  Block hidden_out_, scratch_;                                          // outputs of a pass before they move to the prefix
  std::vector<void*> past_keys_, past_values_, new_keys_, new_values_;  // addresses in scratch_
};

}  // namespace rexit::core

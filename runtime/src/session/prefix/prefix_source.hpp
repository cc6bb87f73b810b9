// Look-up: the cached prefix, or the pinned start, from which a new prefix takes its start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bundle/bundle.hpp"
#include "session/passes/vector_rows.hpp"
#include "session/prefix/pinned_start.hpp"
#include "session/prefix/prefix.hpp"

namespace rexit::core {

// A cached prefix (`prefix`), the pinned start (`packed`) or nothing: then both are null and `shared_tokens` is 0.
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
  PrefixLookup(const Bundle& bundle, const VectorRows& vectors, const PinnedStart* start)
      : bundle_(bundle), vectors_(vectors), start_(start) {}

  // The source that saves the most work for a prefix of `count` tokens; nothing if too few tokens are in common to save time.
  PrefixSource find(const std::vector<std::unique_ptr<Prefix>>& entries, const std::int32_t* tokens, std::size_t count) const;

 private:
  std::size_t common_length(const std::vector<std::int64_t>& keys, const std::int32_t* tokens, std::size_t count) const noexcept;
  std::size_t saved_token_layers(const std::vector<std::size_t>& computed_tokens, std::size_t count) const noexcept;
  const PackedPrefix* matching_start(const std::int32_t* tokens, std::size_t count) const;

  const Bundle& bundle_;
  const VectorRows& vectors_;
  const PinnedStart* start_;
};

}  // namespace rexit::core

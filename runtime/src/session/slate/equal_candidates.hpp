// Candidates of a slate with the same tokens. What a model computes for them differs in the last bits, by their places in a pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "prompt/prompt.hpp"

namespace rexit::core {

class EqualCandidates {
 public:
  // `candidates`: those that are compared, ascending.
  void find(const Prompt& prompt, const std::vector<std::uint32_t>& candidates);
  // The first candidate with the tokens of `candidate`; itself if there is none before it.
  std::size_t first(std::size_t candidate) const noexcept { return first_[candidate]; }
  std::size_t memory() const noexcept { return hashes_.capacity() * sizeof(Hash) + first_.capacity() * sizeof(std::uint32_t); }

 private:
  struct Hash {
    std::uint64_t value;
    std::uint32_t candidate;
  };

  std::vector<Hash> hashes_;
  std::vector<std::uint32_t> first_;
};

}  // namespace rexit::core

// Walks the prompt program: ids of items and users in, tokens out.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle/bundle.hpp"
#include "prompt/retrieval.hpp"

namespace rexit::core {

struct Prompt {
  std::vector<std::int32_t> tokens;  // of the prefix, then of the candidates
  std::vector<std::size_t> offsets;  // 0, end of the prefix, end of candidate 0, …

  std::size_t memory() const noexcept {
    return tokens.capacity() * sizeof(std::int32_t) + offsets.capacity() * sizeof(std::size_t);
  }
  std::size_t prefix_tokens() const noexcept { return offsets[1]; }
  std::size_t candidates() const noexcept { return offsets.size() - 2; }
  const std::int32_t* candidate(std::size_t i) const noexcept { return tokens.data() + offsets[1 + i]; }
  std::size_t candidate_tokens(std::size_t i) const noexcept { return offsets[2 + i] - offsets[1 + i]; }
};

// Assembles the prompt of the query that `retrieval` has begun. `candidates`: which of them, ascending, the others getting no
// tokens; null: all. `retrieval` and `prompt` are reused across calls.
// Throws REXIT_TOO_LONG as soon as the prefix and a candidate together have more tokens than the variant
// accepts; REXIT_CORRUPT for a candidate without tokens, which has no row for the head to read, and for a user's vector that is
// not finite; and what Retrieval throws.
void assemble(const Bundle& bundle, const Deadline& deadline, Retrieval& retrieval, Prompt& prompt,
              const std::vector<std::uint32_t>* candidates = nullptr);
// The same without a bundle, and without the user's vector. `max_tokens`: of the prefix and a candidate.
void assemble(const Catalog& catalog, std::size_t max_tokens, const Deadline& deadline, Retrieval& retrieval, Prompt& prompt,
              const std::vector<std::uint32_t>* candidates = nullptr);

// A prompt as the caller's own token ids.
struct TokenPrompt {
  std::vector<std::int32_t> prefix, candidates;  // all candidates' tokens, one candidate after the other
  std::vector<std::size_t> counts;               // tokens of each candidate
};

// Copies the tokens into `prompt`, which is reused across calls. Reads no catalog. Throws REXIT_INVALID_ARGUMENT for a candidate
// without tokens and for a number that is not a token id; REXIT_TOO_LONG for a prefix and a candidate that together have more
// tokens than the variant accepts.
void assemble(const Bundle& bundle, const TokenPrompt& source, const Deadline& deadline, Prompt& prompt);

}  // namespace rexit::core

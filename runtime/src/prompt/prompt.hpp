// Walks the prompt program: ids in, tokens out.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle/catalog.hpp"
#include "prompt/retrieval.hpp"

namespace rexit::core {

// The prefix's tokens, then each candidate's. offsets: [0, end of prefix, end of candidate 0, ...].
struct Prompt {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> offsets;

  std::size_t prefix_tokens() const noexcept { return offsets[1]; }
  std::size_t candidates() const noexcept { return offsets.size() - 2; }
  const std::int32_t* candidate(std::size_t i) const noexcept { return tokens.data() + offsets[1 + i]; }
  std::size_t candidate_tokens(std::size_t i) const noexcept { return offsets[2 + i] - offsets[1 + i]; }
};

// Assembles the query's prompt; `retrieval` and `prompt` are reused from call to call. Throws REXIT_TOO_LONG as soon as the
// prefix with one candidate has more than `limit` tokens, REXIT_CORRUPT for a candidate without a single token (there would be
// nothing to read a verdict from), REXIT_DEADLINE and REXIT_CANCELLED.
void assemble(const Catalog& catalog, const Query& query, std::size_t limit, const Deadline& deadline, Retrieval& retrieval,
              Prompt& prompt);

}  // namespace rexit::core

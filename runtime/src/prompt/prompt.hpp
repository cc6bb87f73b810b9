// Walks the prompt program: ids of items and users in, tokens out.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle/bundle.hpp"
#include "prompt/retrieval.hpp"

namespace rexit::core {

// The prefix's tokens, then each candidate's. offsets: [0, end of prefix, end of candidate 0, ...]. Ids from
// Program::first_vector on are vectors; what Program::user_vector stands for is in `user_vector`.
struct Prompt {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> offsets;
  std::vector<float> user_vector;  // [H], if the program has a user_vector op

  std::size_t prefix_tokens() const noexcept { return offsets[1]; }
  std::size_t candidates() const noexcept { return offsets.size() - 2; }
  const std::int32_t* candidate(std::size_t i) const noexcept { return tokens.data() + offsets[1 + i]; }
  std::size_t candidate_tokens(std::size_t i) const noexcept { return offsets[2 + i] - offsets[1 + i]; }
};

// Assembles the query's prompt; `retrieval` and `prompt` are reused from call to call. Throws REXIT_TOO_LONG as soon as the
// prefix with one candidate has more tokens, vectors included, than the variant takes, REXIT_CORRUPT for a candidate without a
// single token (there would be nothing to read a verdict from) and for a user's vector that is not finite, and what Retrieval
// throws.
void assemble(const Bundle& bundle, const Query& query, const Deadline& deadline, Retrieval& retrieval, Prompt& prompt);

}  // namespace rexit::core

// A prompt as the caller's own token ids.
#pragma once

#include "prompt/prompt.hpp"

namespace rexit::core {

// Points into the caller's memory, which is read once.
struct TokenPrompt {
  const std::int32_t* prefix;
  std::size_t prefix_tokens;
  const std::int32_t* candidates;  // all candidates' tokens, one candidate after the other
  const std::size_t* counts;       // [candidate_count], tokens of each candidate
  std::size_t candidate_count;
};

// Copies the tokens into `prompt`, which is reused across calls. Reads no catalog. Throws REXIT_INVALID_ARGUMENT for a candidate
// without tokens and for a number that is not a token id; REXIT_TOO_LONG for a prefix and a candidate that together have more
// tokens than the variant accepts.
void assemble(const Bundle& bundle, const TokenPrompt& source, const Deadline& deadline, Prompt& prompt);

}  // namespace rexit::core

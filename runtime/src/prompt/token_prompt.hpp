// A prompt as the caller's own token ids.
#pragma once

#include <vector>

#include "prompt/prompt.hpp"

namespace rexit::core {

struct TokenPrompt {
  std::vector<std::int32_t> prefix, candidates;  // all candidates' tokens, one candidate after the other
  std::vector<std::size_t> counts;               // tokens of each candidate
};

// Copies the tokens into `prompt`, which is reused across calls. Reads no catalog. Throws REXIT_INVALID_ARGUMENT for a candidate
// without tokens and for a number that is not a token id; REXIT_TOO_LONG for a prefix and a candidate that together have more
// tokens than the variant accepts.
void assemble(const Bundle& bundle, const TokenPrompt& source, const Deadline& deadline, Prompt& prompt);

}  // namespace rexit::core

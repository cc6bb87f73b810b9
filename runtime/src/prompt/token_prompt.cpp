#include "prompt/token_prompt.hpp"

#include <string>

#include "base/status.hpp"

namespace rexit::core {
namespace {

// `part()`: names the tokens, for messages.
template <class Part>
void append(const std::int32_t* tokens, std::size_t count, std::size_t vocabulary, const Part& part,
            std::vector<std::int32_t>& to) {
  for (std::size_t i = 0; i < count; ++i)
    if (tokens[i] < 0 || static_cast<std::size_t>(tokens[i]) >= vocabulary)
      fail(REXIT_INVALID_ARGUMENT, part(), '[', i, "] is ", tokens[i], ", expected a token id from 0 to ", vocabulary - 1);
  if (count != 0) to.insert(to.end(), tokens, tokens + count);
}

}  // namespace

void assemble(const Bundle& bundle, const TokenPrompt& source, const Deadline& deadline, Prompt& prompt) {
  const std::size_t limit = bundle.variant().max_positions, vocabulary = bundle.vocabulary(), prefix = source.prefix.size();
  prompt.tokens.clear();
  prompt.user_vector.clear();
  prompt.offsets.assign(1, 0);
  if (bundle.model().causal == 0 && prefix != 0)
    fail(REXIT_INVALID_ARGUMENT, "prefix has ", prefix,
         " tokens, expected none: the model is an encoder, whose candidates are whole pairs");
  if (prefix >= limit)
    fail(REXIT_TOO_LONG, "prefix has ", prefix, " tokens, which leaves no room for a candidate in ", limit,
         ", the most that the variant takes");
  append(source.prefix.data(), prefix, vocabulary, [] { return std::string("prefix"); }, prompt.tokens);
  prompt.offsets.push_back(prompt.tokens.size());
  const std::int32_t* next = source.candidates.data();
  for (std::size_t i = 0; i < source.counts.size(); ++i) {
    deadline.check("the prompt's assembly");
    const std::size_t count = source.counts[i];
    const auto part = [i] { return "candidates[" + std::to_string(i) + "]"; };
    if (count == 0) fail(REXIT_INVALID_ARGUMENT, part(), " has no tokens, expected at least one");
    if (count > limit - prefix)
      fail(REXIT_TOO_LONG, part(), " has ", count, " tokens behind a prefix of ", prefix, ", the variant takes at most ", limit,
           " together");
    append(next, count, vocabulary, part, prompt.tokens);
    next += count;
    prompt.offsets.push_back(prompt.tokens.size());
  }
}

}  // namespace rexit::core

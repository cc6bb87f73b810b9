#include "session/slate/equal_candidates.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

// FNV-1a over tokens instead of bytes.
std::uint64_t hash(const std::int32_t* tokens, std::size_t count) {
  std::uint64_t value = 14695981039346656037u;
  for (std::size_t t = 0; t < count; ++t) value = (value ^ static_cast<std::uint32_t>(tokens[t])) * 1099511628211u;
  return value;
}

bool have_equal_tokens(const Prompt& prompt, std::size_t a, std::size_t b) {
  const std::int32_t *tokens = prompt.candidate(a), *others = prompt.candidate(b);
  return std::equal(tokens, tokens + prompt.candidate_tokens(a), others, others + prompt.candidate_tokens(b));
}

}  // namespace

void EqualCandidates::find(const Prompt& prompt, const std::vector<std::uint32_t>& candidates) {
  hashes_.clear();
  first_.resize(prompt.candidates());
  for (const std::uint32_t i : candidates) {
    hashes_.push_back({hash(prompt.candidate(i), prompt.candidate_tokens(i)), i});
    first_[i] = i;
  }
  std::sort(hashes_.begin(), hashes_.end(),
            [](const Hash& a, const Hash& b) { return a.value != b.value ? a.value < b.value : a.candidate < b.candidate; });
  for (std::size_t n = 1; n < hashes_.size(); ++n) {
    const std::uint32_t first = first_[hashes_[n - 1].candidate], candidate = hashes_[n].candidate;
    if (hashes_[n].value == hashes_[n - 1].value && have_equal_tokens(prompt, first, candidate)) first_[candidate] = first;
  }
}

}  // namespace rexit::core

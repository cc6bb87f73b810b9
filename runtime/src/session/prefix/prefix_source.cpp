#include "session/prefix/prefix_source.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

// A prefix reuses a common start of at least 1/16 of its tokens. Measured (docs/notes/speed/kernels.md): with a large model the
// saving is about that share of the time, 4 % for a sixteenth; a tiny model saves nothing below a quarter. A smaller saving does
// not justify scores that differ in their last bits from those of a prefix computed in a single pass.
constexpr std::size_t min_share = 16;

bool worth_reusing(std::size_t shared, std::size_t count) noexcept { return shared * min_share >= count; }

}  // namespace

std::size_t PrefixSource::shared_tokens_of(std::size_t segment) const noexcept {
  if (shared_tokens == 0) return 0;
  return std::min(shared_tokens, prefix != nullptr ? prefix->computed_tokens[segment] : packed->tokens);
}

Tensors PrefixSource::tensors_of(const PrefixLayout& layout, std::size_t segment) const {
  return packed != nullptr ? layout.packed_tensors(packed->segments[segment], segment, packed->tokens)
                           : layout.tensors_of(prefix->segments[segment], segment, prefix_tokens);
}

PrefixSource PrefixLookup::find(const std::vector<std::unique_ptr<Prefix>>& entries, const std::int32_t* tokens,
                                std::size_t count) const {
  PrefixSource best;
  std::size_t most_saved = 0;
  for (const auto& entry : entries) {
    const std::size_t shared = common_length(entry->tokens, tokens, count);
    if (shared == count && shared == entry->tokens.size()) return {entry.get(), nullptr, shared, count, true};
    const std::size_t saved = saved_token_layers(entry->computed_tokens, shared);
    if (saved > most_saved && worth_reusing(std::min(shared, entry->computed_tokens.front()), count)) {
      most_saved = saved;
      best = {entry.get(), nullptr, shared, entry->tokens.size(), false};
    }
  }
  const PackedPrefix* start = matching_start(tokens, count);
  if (start != nullptr && start->tokens * bundle_.model().layers > most_saved) best = {nullptr, start, start->tokens, 0, false};
  return best;
}

std::size_t PrefixLookup::common_length(const std::vector<std::int64_t>& keys, const std::int32_t* tokens,
                                        std::size_t count) const noexcept {
  std::size_t n = 0;
  while (n < count && n < keys.size() && keys[n] == vectors_.key(tokens[n])) ++n;
  return n;
}

// Tokens times layers that need no computation if the first `count` tokens are reused.
std::size_t PrefixLookup::saved_token_layers(const std::vector<std::size_t>& computed_tokens, std::size_t count) const noexcept {
  std::size_t sum = 0;
  for (std::size_t k = 0; k < computed_tokens.size(); ++k)
    sum += std::min(count, computed_tokens[k]) * bundle_.variant().segments[k].layers();
  return sum;
}

// The pinned start, if `tokens` begin with it and it is worth reusing.
const PackedPrefix* PrefixLookup::matching_start(const std::int32_t* tokens, std::size_t count) const {
  if (start_ == nullptr || start_->tokens().empty()) return nullptr;
  const std::vector<std::int32_t>& start = start_->tokens();
  if (start.size() > count || !worth_reusing(start.size(), count) || !std::equal(start.begin(), start.end(), tokens))
    return nullptr;
  return &start_->prefix();
}

}  // namespace rexit::core

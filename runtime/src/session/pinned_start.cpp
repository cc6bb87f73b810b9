#include "session/pinned_start.hpp"

#include <utility>

namespace rexit::core {
namespace {

// Tokens. Computing so few takes a tiny model as long as copying them does (docs/performance.md), and larger ones longer.
constexpr std::size_t min_start = 8;

}  // namespace

PinnedStart::PinnedStart(const Bundle& bundle) {
  const Pieces& pieces = bundle.catalog().pieces;
  for (const Op& op : bundle.catalog().program.prefix) {
    if (op.kind != OpKind::piece) break;
    const Span span = pieces.tokens_of(op.piece);
    for (std::size_t i = span.begin; i < span.end; ++i) tokens_.push_back(pieces.token(i));
    if (tokens_.size() >= bundle.variant().max_positions) {  // no prompt fits behind it
      tokens_.clear();
      return;
    }
  }
  if (tokens_.size() < min_start) tokens_.clear();
}

const PackedPrefix& PinnedStart::get(const std::function<Made()>& make) const {
  if (const Made* made = ready_.load(std::memory_order_acquire)) return made->prefix;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ready_.load(std::memory_order_relaxed) == nullptr) {
    made_ = make();
    ready_.store(&made_, std::memory_order_release);
  }
  return made_.prefix;
}

std::size_t PinnedStart::bytes() const noexcept {
  const Made* made = ready_.load(std::memory_order_acquire);
  return made != nullptr ? made->memory.size() : 0;
}

}  // namespace rexit::core

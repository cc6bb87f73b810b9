#include "session/prefix/prefix_cache.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

constexpr std::size_t max_rest = 4;  // a prefix is superseded by one that has all of its tokens but at most 1/4

}  // namespace

PrefixCache::PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget,
                         const PinnedStart* start)
    : bundle_(bundle),
      backend_(backend),
      vectors_(vectors),
      layout_(bundle, backend),
      lookup_(bundle, vectors, start),
      store_(bundle, backend, layout_, budget),
      empty_(bundle, backend),
      current_(&empty_),
      shared_tokens_(bundle.segments()),
      addresses_(bundle),
      computation_(bundle, backend, vectors, layout_, store_, addresses_) {}

std::size_t PrefixCache::set_current(const std::int32_t* tokens, std::size_t count) {
  current_ = &empty_;
  store_.end_use();
  if (count == 0) return 0;
  const PrefixSource source = lookup_.find(store_.entries(), tokens, count);
  if (source.identical) {
    use(*source.prefix);
    return source.prefix->computed_tokens.front();
  }
  if (source.prefix != nullptr)
    source.prefix->superseded = (source.prefix_tokens - source.shared_tokens) * max_rest <= source.prefix_tokens;
  Prefix& entry = store_.acquire_entry(count);
  for (std::size_t k = 0; k < shared_tokens_.size(); ++k) shared_tokens_[k] = source.shared_tokens_of(k);
  entry.tokens.clear();
  std::fill(entry.computed_tokens.begin(), entry.computed_tokens.end(), 0);
  entry.tokens.resize(count);
  std::transform(tokens, tokens + count, entry.tokens.begin(), [this](std::int32_t id) { return vectors_.key(id); });
  use(entry);
  release_oversized_blocks(entry, source.prefix == &entry);
  if (source.shared_tokens != 0) copy_start(entry, source);
  return entry.computed_tokens.front();
}

void PrefixCache::use(Prefix& entry) noexcept {
  current_ = &entry;
  store_.use(entry);
  for (std::size_t k = 0; k < entry.computed_tokens.size(); ++k)
    if (entry.computed_tokens[k] != 0) addresses_.set(entry, k, layout_);
}

void PrefixCache::clear() noexcept {
  current_ = &empty_;
  store_.clear();
}

// Releases oversized blocks of `entry` and of the buffers. `keep_shared`: keeps the blocks that hold the first shared_tokens_.
void PrefixCache::release_oversized_blocks(Prefix& entry, bool keep_shared) {
  const std::size_t count = entry.tokens.size();
  for (std::size_t k = 0; k < entry.segments.size(); ++k)
    if (!keep_shared || shared_tokens_[k] == 0) store_.release_if_oversized(entry.segments[k], layout_.block_bytes(k, count));
  if (!keep_shared || shared_tokens_.front() == shared_tokens_.back())
    store_.release_if_oversized(entry.hidden, count * layout_.hidden_row());
  computation_.release_oversized_buffers(count);
}

// Copies what the source has computed for the first shared_tokens_. Nothing waits for copies from the pinned start, which
// outlives them.
void PrefixCache::copy_start(Prefix& entry, const PrefixSource& source) {
  for (std::size_t k = 0; k < shared_tokens_.size() && shared_tokens_[k] != 0; ++k) copy_keys_and_values(entry, source, k);
  copy_hidden_states(entry, source);
  entry.computed_tokens = shared_tokens_;
  store_.evict_for(0, nullptr);
}

// If `entry` is the source itself, its heads move within the block, since they are `entry.tokens.size()` rows apart now. They go
// by way of a buffer.
void PrefixCache::copy_keys_and_values(Prefix& entry, const PrefixSource& source, std::size_t segment) {
  const std::size_t count = entry.tokens.size(), shared = shared_tokens_[segment];
  Tensors from = source.tensors_of(layout_, segment);
  if (source.prefix == &entry) {
    const Tensors old = from;
    Block& buffer = computation_.cache_buffer();
    buffer.reserve(layout_.packed_bytes(segment, shared));
    from = layout_.packed_tensors(buffer.data(), segment, shared);
    layout_.copy(from, old, segment, shared);
  }
  store_.reserve(entry.segments[segment], layout_.block_bytes(segment, count), source.prefix);
  layout_.copy(layout_.tensors_of(entry.segments[segment], segment, count), from, segment, shared);
  addresses_.set(entry, segment, layout_);
}

// The pinned start has no hidden states that a segment will read, so a source with some is a cached prefix. If that is `entry`
// itself, they stay where they are, or by way of a buffer get a larger block.
void PrefixCache::copy_hidden_states(Prefix& entry, const PrefixSource& source) {
  const std::size_t row = layout_.hidden_row(), bytes = entry.tokens.size() * row;
  const std::size_t begin = shared_tokens_.back() * row, end = shared_tokens_.front() * row;
  if (begin == end) return;
  const Block* from = &source.prefix->hidden;
  if (source.prefix == &entry) {
    if (entry.hidden.bytes() >= bytes) return;
    entry.hidden.swap(computation_.hidden_buffer());
    from = &computation_.hidden_buffer();
  }
  store_.reserve(entry.hidden, bytes, source.prefix);
  backend_.copy(entry.hidden.data() + begin, from->data() + begin, end - begin);
}

std::size_t PrefixCache::deepen() {
  const std::vector<std::size_t>& computed = current_->computed_tokens;
  const auto missing = std::find_if(computed.begin(), computed.end(), [this](std::size_t count) { return count < tokens(); });
  const auto segment = static_cast<std::size_t>(missing - computed.begin());
  computation_.compute(*current_, segment);
  return bundle_.variant().segments[segment].layers();
}

}  // namespace rexit::core

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
      shared_tokens_(bundle.exits()),
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

// Copies the first shared_tokens_ from the source. Nothing waits for copies from the pinned start, which outlives them. If
// `entry` is the source itself, rows move within its blocks by way of the buffers.
void PrefixCache::copy_start(Prefix& entry, const PrefixSource& source) {
  const std::size_t count = entry.tokens.size(), row = layout_.hidden_row();
  const bool in_place = source.prefix == &entry;
  for (std::size_t k = 0; k < shared_tokens_.size() && shared_tokens_[k] != 0; ++k) {
    Tensors from = source.tensors_of(layout_, k);
    if (in_place) {
      Block& aside = computation_.cache_buffer();
      aside.reserve(layout_.packed_bytes(k, shared_tokens_[k]));
      const Tensors buffer = layout_.packed_tensors(aside.data(), k, shared_tokens_[k]);
      layout_.copy(buffer, from, k, shared_tokens_[k]);
      from = buffer;
    }
    store_.reserve(entry.segments[k], layout_.block_bytes(k, count), source.prefix);
    layout_.copy(layout_.tensors_of(entry.segments[k], k, count), from, k, shared_tokens_[k]);
    addresses_.set(entry, k, layout_);
  }
  const std::size_t from = shared_tokens_.back(), states = shared_tokens_.front() - from;
  // The pinned start has no hidden states, so the source here is a cached prefix.
  if (states != 0 && !(in_place && entry.hidden.bytes() >= count * row)) {
    Block& aside = computation_.hidden_buffer();
    if (in_place) entry.hidden.swap(aside);
    store_.reserve(entry.hidden, count * row, source.prefix);
    backend_.copy(entry.hidden.data() + from * row, (in_place ? aside : source.prefix->hidden).data() + from * row, states * row);
  }
  entry.computed_tokens = shared_tokens_;
  store_.evict_for(0, nullptr);
}

std::size_t PrefixCache::deepen() {
  const std::vector<std::size_t>& computed = current_->computed_tokens;
  const auto missing = std::find_if(computed.begin(), computed.end(), [this](std::size_t count) { return count < tokens(); });
  const auto segment = static_cast<std::size_t>(missing - computed.begin());
  computation_.compute(*current_, segment);
  return bundle_.variant().segments[segment].layers();
}

}  // namespace rexit::core

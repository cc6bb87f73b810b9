#include "session/prefix.hpp"

#include <algorithm>

#include "base/checked.hpp"
#include "session/prefix_cache.hpp"

namespace rexit::core {

Prefix::Prefix(const Bundle& bundle, const Backend& backend) : computed_tokens(bundle.segments()), hidden(backend) {
  for (std::size_t k = 0; k < bundle.segments(); ++k) segments.emplace_back(backend);
}

std::size_t Prefix::depth() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(computed_tokens.begin(), computed_tokens.end(), [](std::size_t count) { return count != 0; }));
}

std::size_t Prefix::bytes() const noexcept {
  std::size_t sum = hidden.bytes() + tokens.capacity() * sizeof(std::int64_t);
  for (const Block& block : segments) sum += block.bytes();
  return sum;
}

std::size_t PrefixLayout::row(std::size_t segment) const noexcept {
  return bundle_.model().head_dim * bytes_of(bundle_.variant().segments[segment].cache_dtype);
}

std::size_t PrefixLayout::hidden_row() const noexcept {
  return bundle_.model().hidden_size * bytes_of(bundle_.variant().segments.front().hidden_dtype);
}

std::size_t PrefixLayout::stride(std::size_t segment, std::size_t tokens) const {
  const std::size_t bytes = product(bundle_.model().kv_heads, tokens, row(segment)), alignment = backend_.tensor_alignment();
  return (bytes + alignment - 1) / alignment * alignment;
}

std::size_t PrefixLayout::block_bytes(std::size_t segment, std::size_t tokens) const {
  return product(2, bundle_.variant().segments[segment].layers(), stride(segment, tokens));
}

std::size_t PrefixLayout::packed_bytes(std::size_t segment, std::size_t tokens) const {
  return product(2, bundle_.variant().segments[segment].layers(), bundle_.model().kv_heads, tokens, row(segment));
}

Tensors PrefixLayout::tensors_of(const Block& block, std::size_t segment, std::size_t tokens) const {
  return {block.data(), stride(segment, tokens), tokens * row(segment)};
}

Tensors PrefixLayout::packed_tensors(const std::byte* data, std::size_t segment, std::size_t tokens) const {
  const std::size_t pitch = tokens * row(segment);
  return {const_cast<std::byte*>(data), bundle_.model().kv_heads * pitch, pitch};
}

void PrefixLayout::copy(const Tensors& to, const Tensors& from, std::size_t segment, std::size_t tokens) const {
  HeadRows rows(backend_, bundle_.model().kv_heads, to.pitch, from.pitch, tokens * row(segment));
  for (std::size_t j = 0; j < 2 * bundle_.variant().segments[segment].layers(); ++j)
    rows.add(to.data + j * to.stride, from.data + j * from.stride);
  rows.finish();
}

void PrefixLayout::pack(const Prefix& prefix, std::size_t segment, std::byte* to) const {
  const std::size_t tokens = prefix.tokens.size();
  copy(packed_tensors(to, segment, tokens), tensors_of(prefix.segments[segment], segment, tokens), segment, tokens);
  backend_.finish_copies();
}

void HeadRows::add(std::byte* to, const std::byte* from) {
  if (count_ == 0 || to != to_ + count_ * to_pitch_ || from != from_ + count_ * from_pitch_) {
    finish();
    to_ = to;
    from_ = from;
  }
  count_ += heads_;
}

void HeadRows::finish() {
  if (count_ != 0) backend_.copy_rows(to_, to_pitch_, from_, from_pitch_, bytes_, count_);
  count_ = 0;
}

namespace {

// A tiny model computes this many tokens as fast as it copies them (docs/notes/speed/kernels.md). Larger models take longer to
// compute them.
constexpr std::size_t min_tokens = 8;

// A longer start is pinned up to here. A bundle of a few kilobytes can repeat a piece until the start has 16
// million tokens, and nothing can cancel an open. Sessions compute and cache the rest.
constexpr std::size_t max_tokens = 4096;

}  // namespace

PinnedStart::PinnedStart(const Bundle& bundle, const BackendFactory& make_backend) : tokens_(tokens_of(bundle)) {
  if (tokens_.empty()) return;
  const std::shared_ptr<const Backend> backend = make_backend();
  PrefixCache cache(bundle, *backend, 0);
  cache.set_current(tokens_.data(), tokens_.size());
  while (!cache.ready(bundle.segments() - 1)) cache.deepen();

  prefix_.tokens = tokens_.size();
  std::size_t bytes = 0;
  for (std::size_t k = 0; k < bundle.segments(); ++k) bytes += cache.layout().packed_bytes(k, tokens_.size());
  memory_.resize(bytes);
  std::byte* to = memory_.data();
  for (std::size_t k = 0; k < bundle.segments(); ++k) {
    cache.layout().pack(cache.current(), k, to);
    prefix_.segments.push_back(to);
    to += cache.layout().packed_bytes(k, tokens_.size());
  }
}

std::vector<std::int32_t> PinnedStart::tokens_of(const Bundle& bundle) {
  std::vector<std::int32_t> tokens;
  if (!bundle.has_catalog()) return tokens;
  const Pieces& pieces = bundle.catalog().pieces;
  for (const Op& op : bundle.catalog().program.prefix) {
    if (op.kind != OpKind::piece) break;
    const Span span = pieces.tokens_of(op.piece);
    for (std::size_t i = span.begin; i < span.end; ++i) tokens.push_back(pieces.token(i));
    if (tokens.size() >= bundle.variant().max_positions) return {};  // leaves no room for a candidate
    if (tokens.size() >= max_tokens) {
      tokens.resize(max_tokens);
      break;
    }
  }
  if (tokens.size() < min_tokens) tokens.clear();
  return tokens;
}

}  // namespace rexit::core

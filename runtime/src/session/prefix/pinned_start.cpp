#include "session/prefix/pinned_start.hpp"

#include "session/prefix/prefix_cache.hpp"

namespace rexit::core {
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
  VectorRows vectors(bundle);
  PrefixCache cache(bundle, *backend, vectors, 0);
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

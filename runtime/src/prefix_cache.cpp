#include "prefix_cache.hpp"

#include <algorithm>
#include <numeric>

namespace rexit::core {

PrefixCache::PrefixCache(const Bundle& bundle, const Backend& backend)
    : bundle_(bundle), backend_(backend), hidden_(backend), hidden_next_(backend) {
  for (const Segment& segment : bundle.variant().segments) {
    caches_.emplace_back(backend_);
    keys_.emplace_back(segment.layers());
    values_.emplace_back(segment.layers());
  }
}

bool PrefixCache::use(const std::int32_t* tokens, std::size_t count) {
  const bool same = count == tokens_.size() && std::equal(tokens_.begin(), tokens_.end(), tokens);
  if (same) return depth_ != 0;
  depth_ = 0;
  tokens_.assign(tokens, tokens + count);
  return false;
}

std::size_t PrefixCache::deepen() {
  const Segment& segment = bundle_.variant().segments[depth_];
  const Model& model = bundle_.model();
  const std::size_t count = tokens_.size();
  if (positions_.size() < count) {
    positions_.resize(count);
    std::iota(positions_.begin(), positions_.end(), 0);
    groups_.resize(count, 0);
  }

  const std::size_t stride = model.kv_heads * count * model.head_dim * bytes_of(segment.cache_dtype);
  caches_[depth_].reserve(2 * segment.layers() * stride);
  for (std::size_t i = 0; i < segment.layers(); ++i) {
    keys_[depth_][i] = caches_[depth_].data() + 2 * i * stride;
    values_[depth_][i] = caches_[depth_].data() + (2 * i + 1) * stride;
  }

  const auto last = static_cast<std::int64_t>(count) - 1;
  Pass pass;
  pass.tokens = count;
  pass.rows = 1;
  pass.token_ids = tokens_.data();
  pass.hidden_in = hidden_.data();
  pass.positions = positions_.data();
  pass.groups = groups_.data();
  pass.row_index = &last;
  if (!segment.last) pass.hidden_out = hidden_next_.reserve(count * model.hidden_size * bytes_of(segment.hidden_dtype));
  pass.new_keys = keys_[depth_].data();
  pass.new_values = values_[depth_].data();
  backend_.run(depth_, pass);

  hidden_.swap(hidden_next_);
  ++depth_;
  return segment.layers();
}

std::size_t PrefixCache::memory() const noexcept {
  std::size_t bytes = hidden_.bytes() + hidden_next_.bytes();
  for (const Block& cache : caches_) bytes += cache.bytes();
  return bytes + (tokens_.capacity() + positions_.capacity() + groups_.capacity()) * sizeof(std::int64_t);
}

}  // namespace rexit::core

#include "session/prefix_cache.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "base/checked.hpp"

namespace rexit::core {

namespace {

constexpr std::size_t max_oversize = 4;  // an entry keeps a block of up to this many times the bytes it needs

}  // namespace

void PrefixStore::use(Prefix& entry) noexcept {
  in_use_ = &entry;
  entry.last_use = ++uses_;
  entry.superseded = false;
}

Prefix& PrefixStore::acquire_entry(std::size_t tokens) {
  // A new entry will become as deep as the deepest and as large as the largest.
  std::size_t depth = 1, largest = 0;
  for (const auto& entry : entries_) {
    if (entry->tokens.empty()) return *entry;
    depth = std::max(depth, entry->depth());
    largest = std::max(largest, entry->bytes());
  }
  std::size_t needed = tokens * layout_.hidden_row();
  for (std::size_t k = 0; k < depth; ++k) needed += layout_.block_bytes(k, tokens);
  needed = std::max(needed, largest);
  if (!entries_.empty() && bytes() + needed > budget_) return *first_to_evict(nullptr);
  entries_.push_back(std::make_unique<Prefix>(bundle_, backend_));
  return *entries_.back();
}

// Null if only the entry in use and `source` are left. Free entries come first.
Prefix* PrefixStore::first_to_evict(const Prefix* source) const noexcept {
  const auto order = [](const Prefix& entry) { return std::tuple(!entry.tokens.empty(), !entry.superseded, entry.last_use); };
  Prefix* first = nullptr;
  for (const auto& entry : entries_) {
    if (entry.get() == in_use_ || entry.get() == source) continue;
    if (first == nullptr || order(*entry) < order(*first)) first = entry.get();
  }
  return first;
}

void PrefixStore::evict_for(std::size_t more, const Prefix* source) {
  while (bytes() + more > budget_) {
    const Prefix* victim = first_to_evict(source);
    if (victim == nullptr) return;
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.get() == victim; }));
  }
}

void PrefixStore::reserve(Block& block, std::size_t bytes, const Prefix* source) {
  release_if_oversized(block, bytes);
  if (bytes > block.bytes()) evict_for(bytes - block.bytes(), source);
  block.reserve(bytes);
}

void PrefixStore::release_if_oversized(Block& block, std::size_t bytes) const {
  if (block.bytes() / max_oversize > bytes) Block(backend_).swap(block);
}

void PrefixStore::clear() noexcept {
  in_use_ = nullptr;
  for (const auto& entry : entries_) entry->tokens.clear();
}

std::size_t PrefixStore::bytes() const noexcept {
  std::size_t sum = 0;
  for (const auto& entry : entries_) sum += entry->bytes();
  return sum;
}

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

std::size_t PrefixLookup::common_length(const std::vector<std::int64_t>& cached, const std::int32_t* tokens,
                                        std::size_t count) const noexcept {
  std::size_t n = 0;
  while (n < count && n < cached.size() && cached[n] == tokens[n]) ++n;
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

namespace {

std::byte* as_bytes(void* data) { return static_cast<std::byte*>(data); }

}  // namespace

CacheAddresses::CacheAddresses(const Bundle& bundle) {
  for (const Segment& segment : bundle.variant().segments)
    for (auto* pointers : {&keys_, &values_}) pointers->emplace_back(segment.layers());
}

void CacheAddresses::set(const Prefix& prefix, std::size_t segment, const PrefixLayout& layout) noexcept {
  const Tensors tensors = layout.tensors_of(prefix.segments[segment], segment, prefix.tokens.size());
  for (std::size_t i = 0; i < keys_[segment].size(); ++i) {
    keys_[segment][i] = tensors.data + 2 * i * tensors.stride;
    values_[segment][i] = tensors.data + (2 * i + 1) * tensors.stride;
  }
}

void PrefixComputation::compute(Prefix& prefix, std::size_t segment) {
  std::size_t& computed = prefix.computed_tokens[segment];
  if (computed == 0) {
    compute_all(prefix, segment);
  } else {
    compute_rest(prefix, segment, computed);
  }
  computed = prefix.tokens.size();
}

void PrefixComputation::compute_all(Prefix& prefix, std::size_t segment) {
  store_.reserve(prefix.segments[segment], layout_.block_bytes(segment, prefix.tokens.size()), nullptr);
  addresses_.set(prefix, segment, layout_);
  Pass pass;
  pass.new_keys = addresses_.keys(segment);
  pass.new_values = addresses_.values(segment);
  run(prefix, segment, 0, pass);
  if (!bundle_.variant().segments[segment].last) prefix.hidden.swap(hidden_out_);
}

// Computes a segment for the tokens from `from` on. The earlier ones are computed.
void PrefixComputation::compute_rest(Prefix& prefix, std::size_t segment, std::size_t from) {
  const std::size_t total = prefix.tokens.size(), row = layout_.hidden_row();
  lay_out_scratch(segment, from, total);
  copy_past(segment, from, total);
  Pass pass;
  pass.past_keys = past_keys_.data();
  pass.past_values = past_values_.data();
  pass.new_keys = new_keys_.data();
  pass.new_values = new_values_.data();
  run(prefix, segment, from, pass);
  copy_new(segment, from, total);
  if (!bundle_.variant().segments[segment].last)
    backend_.copy(prefix.hidden.data() + from * row, hidden_out_.data(), (total - from) * row);
}

// From the prefix to scratch_.
void PrefixComputation::copy_past(std::size_t segment, std::size_t from, std::size_t total) const {
  const std::size_t row = layout_.row(segment), bytes = from * row;
  HeadRows rows(backend_, bundle_.model().kv_heads, bytes, total * row, bytes);
  for (std::size_t i = 0; i < bundle_.variant().segments[segment].layers(); ++i) {
    rows.add(as_bytes(past_keys_[i]), as_bytes(addresses_.keys(segment)[i]));
    rows.add(as_bytes(past_values_[i]), as_bytes(addresses_.values(segment)[i]));
  }
  rows.finish();
}

// From scratch_ to the prefix, behind the past.
void PrefixComputation::copy_new(std::size_t segment, std::size_t from, std::size_t total) const {
  const std::size_t row = layout_.row(segment), bytes = (total - from) * row;
  HeadRows rows(backend_, bundle_.model().kv_heads, total * row, bytes, bytes);
  for (std::size_t i = 0; i < bundle_.variant().segments[segment].layers(); ++i) {
    rows.add(as_bytes(addresses_.keys(segment)[i]) + from * row, as_bytes(new_keys_[i]));
    rows.add(as_bytes(addresses_.values(segment)[i]) + from * row, as_bytes(new_values_[i]));
  }
  rows.finish();
}

// Assigns addresses in scratch_ to the past of a pass, the first `from` tokens, and to its new keys and values. The pass needs
// both without gaps between heads.
void PrefixComputation::lay_out_scratch(std::size_t segment, std::size_t from, std::size_t total) {
  const std::size_t layers = bundle_.variant().segments[segment].layers();
  const std::size_t past_stride = layout_.stride(segment, from), new_stride = layout_.stride(segment, total - from);
  const std::size_t stride_sum = std::max(past_stride + new_stride, layout_.stride(segment, total));
  std::byte* part = as_bytes(scratch_.reserve(product(2, layers, stride_sum)));
  const auto assign = [&](std::vector<void*>& keys, std::vector<void*>& values, std::size_t stride) {
    for (auto* pointers : {&keys, &values}) pointers->resize(std::max(pointers->size(), layers));
    for (std::size_t i = 0; i < layers; ++i)
      for (auto* pointers : {&keys, &values}) {
        (*pointers)[i] = part;
        part += stride;
      }
  };
  assign(past_keys_, past_values_, past_stride);
  assign(new_keys_, new_values_, new_stride);
}

// Runs a segment for the tokens from `from` on. `pass` has the addresses of keys and values. Hidden states go to hidden_out_.
void PrefixComputation::run(Prefix& prefix, std::size_t segment, std::size_t from, Pass pass) {
  const std::size_t total = prefix.tokens.size(), hidden = product(total, layout_.hidden_row());
  if (segment == 0 && hidden > prefix.hidden.bytes()) store_.reserve(prefix.hidden, hidden, nullptr);  // it is still empty
  if (positions_.size() < total) {
    positions_.resize(total);
    std::iota(positions_.begin(), positions_.end(), 0);
    groups_.resize(total, 0);
  }
  const auto last = static_cast<std::int64_t>(total - from) - 1;
  pass.tokens = total - from;
  pass.prefix = from;
  pass.rows = 1;
  if (segment == 0) pass.token_ids = prefix.tokens.data() + from;
  pass.hidden_in = prefix.hidden.data() + from * layout_.hidden_row();
  pass.positions = positions_.data() + from;
  pass.groups = groups_.data();
  pass.row_index = &last;
  if (!bundle_.variant().segments[segment].last) pass.hidden_out = hidden_out_.reserve(hidden);
  backend_.run(segment, pass);
}

void PrefixComputation::release_oversized_buffers(std::size_t prefix_tokens) {
  std::size_t largest = 0;
  for (std::size_t k = 0; k < bundle_.segments(); ++k) largest = std::max(largest, layout_.block_bytes(k, prefix_tokens));
  store_.release_if_oversized(hidden_out_, prefix_tokens * layout_.hidden_row());
  store_.release_if_oversized(scratch_, largest);
}

std::size_t PrefixComputation::bytes() const noexcept {
  return hidden_out_.bytes() + scratch_.bytes() + (positions_.capacity() + groups_.capacity()) * sizeof(std::int64_t);
}

namespace {

constexpr std::size_t max_rest = 4;  // a prefix is superseded by one that has all of its tokens but at most 1/4

}  // namespace

PrefixCache::PrefixCache(const Bundle& bundle, const Backend& backend, std::size_t budget, const PinnedStart* start)
    : bundle_(bundle),
      backend_(backend),
      layout_(bundle, backend),
      lookup_(bundle, start),
      store_(bundle, backend, layout_, budget),
      empty_(bundle, backend),
      current_(&empty_),
      shared_tokens_(bundle.segments()),
      addresses_(bundle),
      computation_(bundle, backend, layout_, store_, addresses_) {}

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
  std::fill(entry.computed_tokens.begin(), entry.computed_tokens.end(), 0);
  entry.tokens.assign(tokens, tokens + count);
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

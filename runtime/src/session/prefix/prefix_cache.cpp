#include "session/prefix/prefix_cache.hpp"

#include <algorithm>
#include <numeric>

#include "base/checked.hpp"

namespace rexit::core {
namespace {

// A prefix reuses a common start of at least 1/16 of its tokens. Measured (docs/notes/speed/prefixes.md): with a large model the
// saving is about that share of the time, 4 % for a sixteenth; a tiny model saves nothing below a quarter. A smaller saving does
// not justify scores that differ in their last bits from those of a prefix computed in a single pass.
constexpr std::size_t min_share = 16;
constexpr std::size_t max_rest = 4;  // a prefix is superseded by one that has all of its tokens but at most 1/4

std::size_t common_length(const std::vector<std::int64_t>& keys, const std::int32_t* tokens, std::size_t count,
                          const VectorRows& vectors) noexcept {
  std::size_t n = 0;
  while (n < count && n < keys.size() && keys[n] == vectors.key(tokens[n])) ++n;
  return n;
}

bool worth_reusing(std::size_t shared, std::size_t count) noexcept { return shared * min_share >= count; }

std::byte* as_bytes(void* data) { return static_cast<std::byte*>(data); }

}  // namespace

// Where a new prefix takes its start from: a cached prefix or the pinned start.
struct PrefixCache::Source {
  Prefix* prefix = nullptr;
  const PackedPrefix* packed = nullptr;
  std::size_t shared = 0;  // tokens in common
  std::size_t tokens = 0;  // of `prefix`, which may be overwritten
  bool identical = false;

  const std::vector<std::size_t>& computed_tokens() const noexcept {
    return prefix != nullptr ? prefix->computed_tokens : packed->computed_tokens;
  }
};

PrefixCache::PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget,
                         const PinnedStart* start)
    : bundle_(bundle),
      backend_(backend),
      vectors_(vectors),
      start_(start != nullptr && !start->tokens().empty() ? start : nullptr),
      layout_(bundle, backend),
      store_(bundle, backend, layout_, budget),
      empty_(bundle, backend),
      current_(&empty_),
      shared_tokens_(bundle.exits()),
      hidden_next_(backend),
      scratch_(backend) {
  for (const Segment& segment : bundle.variant().segments)
    for (auto* pointers : {&keys_, &values_}) pointers->emplace_back(segment.layers());
}

std::size_t PrefixCache::set_current(const std::int32_t* tokens, std::size_t count) {
  current_ = &empty_;
  store_.end_use();
  if (count == 0) return 0;
  const Source source = find_source(tokens, count);
  if (source.identical) {
    use(*source.prefix);
    return source.prefix->computed_tokens.front();
  }
  if (source.prefix != nullptr) source.prefix->superseded = (source.tokens - source.shared) * max_rest <= source.tokens;
  Prefix& entry = store_.acquire_entry(count);
  for (std::size_t k = 0; k < shared_tokens_.size(); ++k)
    shared_tokens_[k] = source.shared != 0 ? std::min(source.shared, source.computed_tokens()[k]) : 0;
  entry.tokens.clear();
  std::fill(entry.computed_tokens.begin(), entry.computed_tokens.end(), 0);
  entry.tokens.resize(count);
  std::transform(tokens, tokens + count, entry.tokens.begin(), [this](std::int32_t id) { return vectors_.key(id); });
  use(entry);
  release_oversized_blocks(entry, source.prefix == &entry);
  if (source.shared != 0) copy_start(entry, source);
  return entry.computed_tokens.front();
}

// The source that saves most; without any if none is worth it.
PrefixCache::Source PrefixCache::find_source(const std::int32_t* tokens, std::size_t count) const {
  Source best;
  std::size_t most_saved = 0;
  for (const auto& entry : store_.entries()) {
    const std::size_t shared = common_length(entry->tokens, tokens, count, vectors_);
    if (shared == count && shared == entry->tokens.size()) return {entry.get(), nullptr, shared, count, true};
    const std::size_t saved = saved_token_layers(entry->computed_tokens, shared);
    if (saved > most_saved && worth_reusing(std::min(shared, entry->computed_tokens.front()), count)) {
      most_saved = saved;
      best = {entry.get(), nullptr, shared, entry->tokens.size(), false};
    }
  }
  const PackedPrefix* start = matching_start(tokens, count);
  if (start != nullptr && start->tokens.size() * bundle_.model().layers > most_saved)
    best = {nullptr, start, start->tokens.size(), 0, false};
  return best;
}

// The pinned start, if `tokens` begin with it and it is worth reusing.
const PackedPrefix* PrefixCache::matching_start(const std::int32_t* tokens, std::size_t count) const {
  if (start_ == nullptr) return nullptr;
  const std::vector<std::int32_t>& start = start_->tokens();
  if (start.size() > count || !worth_reusing(start.size(), count) || !std::equal(start.begin(), start.end(), tokens))
    return nullptr;
  return &start_->prefix();
}

// Tokens times layers that need no computation if the first `count` tokens are reused.
std::size_t PrefixCache::saved_token_layers(const std::vector<std::size_t>& computed_tokens, std::size_t count) const noexcept {
  std::size_t sum = 0;
  for (std::size_t k = 0; k < computed_tokens.size(); ++k)
    sum += std::min(count, computed_tokens[k]) * bundle_.variant().segments[k].layers();
  return sum;
}

void PrefixCache::use(Prefix& entry) noexcept {
  current_ = &entry;
  store_.use(entry);
  for (std::size_t k = 0; k < entry.computed_tokens.size(); ++k)
    if (entry.computed_tokens[k] != 0) update_pointers(k);
}

// Sets keys_ and values_ to the addresses of the current prefix's segment.
void PrefixCache::update_pointers(std::size_t segment) noexcept {
  const Tensors tensors = layout_.tensors_of(current_->segments[segment], segment, current_->tokens.size());
  for (std::size_t i = 0; i < keys_[segment].size(); ++i) {
    keys_[segment][i] = tensors.data + 2 * i * tensors.stride;
    values_[segment][i] = tensors.data + (2 * i + 1) * tensors.stride;
  }
}

void PrefixCache::clear() noexcept {
  current_ = &empty_;
  store_.clear();
}

void PrefixCache::load(const std::vector<PackedPrefix>& prefixes) {
  store_.load(prefixes);
  current_ = &empty_;
}

// Releases oversized blocks of `entry` and of the buffers. `keep_shared`: keeps the blocks that hold the first shared_tokens_.
void PrefixCache::release_oversized_blocks(Prefix& entry, bool keep_shared) {
  const std::size_t count = entry.tokens.size();
  std::size_t largest = 0;
  for (std::size_t k = 0; k < entry.segments.size(); ++k) {
    if (!keep_shared || shared_tokens_[k] == 0) store_.release_if_oversized(entry.segments[k], layout_.block_bytes(k, count));
    largest = std::max(largest, layout_.block_bytes(k, count));
  }
  if (!keep_shared || shared_tokens_.front() == shared_tokens_.back())
    store_.release_if_oversized(entry.hidden, count * layout_.hidden_row());
  store_.release_if_oversized(hidden_next_, count * layout_.hidden_row());
  store_.release_if_oversized(scratch_, largest);
}

// Copies the first shared_tokens_ from the source. If `entry` is the source itself, rows move within its blocks by way of the
// buffers.
void PrefixCache::copy_start(Prefix& entry, const Source& source) {
  const std::size_t count = entry.tokens.size(), row = layout_.hidden_row();
  const bool in_place = source.prefix == &entry;
  for (std::size_t k = 0; k < shared_tokens_.size() && shared_tokens_[k] != 0; ++k) {
    Tensors from = source.packed != nullptr
                       ? layout_.packed_tensors(source.packed->segments[k], k, source.packed->computed_tokens[k])
                       : layout_.tensors_of(source.prefix->segments[k], k, source.tokens);
    if (in_place) {
      scratch_.reserve(layout_.packed_bytes(k, shared_tokens_[k]));
      const Tensors buffer = layout_.packed_tensors(scratch_.data(), k, shared_tokens_[k]);
      layout_.copy(buffer, from, k, shared_tokens_[k]);
      from = buffer;
    }
    store_.reserve(entry.segments[k], layout_.block_bytes(k, count), source.prefix);
    layout_.copy(layout_.tensors_of(entry.segments[k], k, count), from, k, shared_tokens_[k]);
    update_pointers(k);
  }
  const std::size_t from = shared_tokens_.back(), states = shared_tokens_.front() - from;
  // The pinned start has no hidden states, so the source here is a cached prefix.
  if (states != 0 && !(in_place && entry.hidden.bytes() >= count * row)) {
    if (in_place) entry.hidden.swap(hidden_next_);
    store_.reserve(entry.hidden, count * row, source.prefix);
    backend_.copy(entry.hidden.data() + from * row, (in_place ? hidden_next_ : source.prefix->hidden).data() + from * row,
                  states * row);
  }
  entry.computed_tokens = shared_tokens_;
  store_.evict_for(0, nullptr);
}

std::size_t PrefixCache::deepen() {
  std::vector<std::size_t>& computed = current_->computed_tokens;
  const auto missing = std::find_if(computed.begin(), computed.end(), [this](std::size_t count) { return count < tokens(); });
  const auto segment = static_cast<std::size_t>(missing - computed.begin());
  if (*missing == 0) {
    compute(segment);
  } else {
    compute_rest(segment, *missing);
  }
  *missing = tokens();
  return bundle_.variant().segments[segment].layers();
}

// Computes a segment for all tokens of the current prefix.
void PrefixCache::compute(std::size_t index) {
  store_.reserve(current_->segments[index], layout_.block_bytes(index, tokens()), nullptr);
  update_pointers(index);
  Pass pass;
  pass.new_keys = keys_[index].data();
  pass.new_values = values_[index].data();
  run(index, 0, pass);
  if (!bundle_.variant().segments[index].last) current_->hidden.swap(hidden_next_);
}

// Computes a segment for the tokens from `from` on. The earlier ones are computed.
void PrefixCache::compute_rest(std::size_t index, std::size_t from) {
  const std::size_t heads = bundle_.model().kv_heads, total = tokens(), count = total - from, layers = keys_[index].size();
  const std::size_t row = layout_.row(index);
  lay_out_scratch(index, from);
  HeadRows past(backend_, heads, from * row, total * row, from * row);
  for (std::size_t i = 0; i < layers; ++i) {
    past.add(as_bytes(past_keys_[i]), as_bytes(keys_[index][i]));
    past.add(as_bytes(past_values_[i]), as_bytes(values_[index][i]));
  }
  past.finish();

  Pass pass;
  pass.past_keys = past_keys_.data();
  pass.past_values = past_values_.data();
  pass.new_keys = new_keys_.data();
  pass.new_values = new_values_.data();
  run(index, from, pass);

  HeadRows added(backend_, heads, total * row, count * row, count * row);
  for (std::size_t i = 0; i < layers; ++i) {
    added.add(as_bytes(keys_[index][i]) + from * row, as_bytes(new_keys_[i]));
    added.add(as_bytes(values_[index][i]) + from * row, as_bytes(new_values_[i]));
  }
  added.finish();
  const std::size_t hidden = layout_.hidden_row();
  if (!bundle_.variant().segments[index].last)
    backend_.copy(current_->hidden.data() + from * hidden, hidden_next_.data(), count * hidden);
}

// Assigns addresses in scratch_ to the past of a pass, the first `from` tokens, and to its new keys and values. The pass needs
// both without gaps between heads.
void PrefixCache::lay_out_scratch(std::size_t segment, std::size_t from) {
  const std::size_t layers = keys_[segment].size(), total = tokens();
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

// Runs a segment for the tokens from `from` on. `pass` has the addresses of keys and values. Hidden states go to hidden_next_.
void PrefixCache::run(std::size_t index, std::size_t from, Pass pass) {
  Prefix& entry = *current_;
  const std::size_t total = entry.tokens.size(), hidden = product(total, layout_.hidden_row());
  if (index == 0 && hidden > entry.hidden.bytes()) store_.reserve(entry.hidden, hidden, nullptr);  // it is still empty
  if (positions_.size() < total) {
    positions_.resize(total);
    std::iota(positions_.begin(), positions_.end(), 0);
    groups_.resize(total, 0);
  }
  const auto last = static_cast<std::int64_t>(total - from) - 1;
  pass.tokens = total - from;
  pass.prefix = from;
  pass.rows = 1;
  if (index == 0) vectors_.set_inputs(entry.tokens.data() + from, pass);
  pass.hidden_in = entry.hidden.data() + from * layout_.hidden_row();
  pass.positions = positions_.data() + from;
  pass.groups = groups_.data();
  pass.row_index = &last;
  if (!bundle_.variant().segments[index].last) pass.hidden_out = hidden_next_.reserve(hidden);
  backend_.run(index, pass);
}

std::size_t PrefixCache::memory() const noexcept {
  return prefix_bytes() + hidden_next_.bytes() + scratch_.bytes() +
         (positions_.capacity() + groups_.capacity()) * sizeof(std::int64_t);
}

}  // namespace rexit::core

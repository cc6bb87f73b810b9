#include "session/prefix_cache.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/checked.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t min_share = 4;  // a prefix reuses another's start if that makes up at least one in so many tokens
constexpr std::size_t max_spare = 4;  // a prefix that takes over memory keeps up to this many times what it needs

std::size_t common(const std::vector<std::int64_t>& held, const std::int32_t* tokens, std::size_t count,
                   const VectorRows& vectors) noexcept {
  std::size_t n = 0;
  while (n < count && n < held.size() && held[n] == vectors.key(tokens[n])) ++n;
  return n;
}

// Copies one row per head from tensor to tensor. Tensors that are adjacent in both places go in one copy.
class HeadRows {
 public:
  HeadRows(const Backend& backend, std::size_t heads, std::size_t to_pitch, std::size_t from_pitch, std::size_t bytes)
      : backend_(backend), heads_(heads), to_pitch_(to_pitch), from_pitch_(from_pitch), bytes_(bytes) {}

  void add(std::byte* to, const std::byte* from) {
    if (count_ == 0 || to != to_ + count_ * to_pitch_ || from != from_ + count_ * from_pitch_) {
      finish();
      to_ = to;
      from_ = from;
    }
    count_ += heads_;
  }
  void finish() {
    if (count_ != 0) backend_.copy_rows(to_, to_pitch_, from_, from_pitch_, bytes_, count_);
    count_ = 0;
  }

 private:
  const Backend& backend_;
  const std::size_t heads_, to_pitch_, from_pitch_, bytes_;
  std::byte* to_ = nullptr;
  const std::byte* from_ = nullptr;
  std::size_t count_ = 0;
};

std::byte* as_bytes(void* data) { return static_cast<std::byte*>(data); }

}  // namespace

PrefixCache::PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget)
    : bundle_(bundle),
      backend_(backend),
      vectors_(vectors),
      budget_(budget),
      none_(backend),
      used_(&none_),
      hidden_next_(backend),
      parts_(backend) {
  for (const Segment& segment : bundle.variant().segments) {
    none_.segments.emplace_back(backend);
    none_.segments.back().keys.resize(segment.layers());
    none_.segments.back().values.resize(segment.layers());
  }
}

std::size_t PrefixCache::use(const std::int32_t* tokens, std::size_t count) {
  used_ = &none_;
  if (count == 0) return 0;
  Entry* source = nullptr;
  std::size_t shared = 0, depth = 0;
  for (const auto& entry : entries_) {
    const std::size_t n = common(entry->tokens, tokens, count, vectors_);
    const bool same = n == count && n == entry->tokens.size();
    if (same) {
      used_ = entry.get();
      used_->last_use = ++uses_;
      return used_->depth != 0 ? count : used_->shared;
    }
    const std::size_t deep = n * min_share < count ? 0 : depth_of(*entry, n);
    if (deep != 0 && (n > shared || (n == shared && deep > depth))) {
      source = entry.get();
      shared = n;
      depth = deep;
    }
  }

  Entry& entry = place_for(count, source);
  const std::size_t held = source != nullptr ? source->tokens.size() : 0;
  entry.tokens.clear();
  entry.depth = entry.shared = entry.shared_depth = 0;
  used_ = &entry;
  entry.last_use = ++uses_;
  entry.tokens.resize(count);
  std::transform(tokens, tokens + count, entry.tokens.begin(), [this](std::int32_t id) { return vectors_.key(id); });
  trim(entry, &entry == source ? depth : 0);
  if (source == nullptr) return 0;
  copy_shared(entry, *source, held, shared, depth);
  hold_budget(0, nullptr);
  return shared;
}

void PrefixCache::clear() noexcept {
  used_ = &none_;
  for (const auto& entry : entries_) entry->tokens.clear();
}

// A free entry; or a new one, if the budget has room for one as deep as the deepest and as large as the largest; otherwise the
// least recently used one, and `source` only if there is no other.
PrefixCache::Entry& PrefixCache::place_for(std::size_t count, const Entry* source) {
  std::size_t depth = 1, most = 0;
  for (const auto& entry : entries_) {
    if (entry->tokens.empty()) return *entry;
    depth = std::max(depth, entry->depth);
    most = std::max(most, bytes_of_entry(*entry));
  }
  std::size_t bytes = count * row_bytes();
  for (std::size_t k = 0; k < depth; ++k) bytes += block_bytes(k, count);
  bytes = std::max(bytes, most);
  if (!entries_.empty() && prefixes() + bytes > budget_) {
    Entry* victim = least_recent(source);
    return victim != nullptr ? *victim : *entries_.front();
  }
  auto entry = std::make_unique<Entry>(backend_);
  for (const Cached& segment : none_.segments) {
    entry->segments.emplace_back(backend_);
    entry->segments.back().keys.resize(segment.keys.size());
    entry->segments.back().values.resize(segment.values.size());
  }
  entries_.push_back(std::move(entry));
  return *entries_.back();
}

// The least recently used entry other than the one in use and `kept`; free entries first.
PrefixCache::Entry* PrefixCache::least_recent(const Entry* kept) const noexcept {
  Entry* found = nullptr;
  for (const auto& entry : entries_) {
    if (entry.get() == used_ || entry.get() == kept) continue;
    if (entry->tokens.empty()) return entry.get();
    if (found == nullptr || entry->last_use < found->last_use) found = entry.get();
  }
  return found;
}

// Removes entries other than the one in use and `kept` until `more` bytes fit in the budget.
void PrefixCache::hold_budget(std::size_t more, const Entry* kept) {
  while (prefixes() + more > budget_) {
    const Entry* victim = least_recent(kept);
    if (victim == nullptr) return;
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.get() == victim; }));
  }
}

void PrefixCache::lay_out(Entry& entry, std::size_t segment, const Entry* kept) {
  Cached& cached = entry.segments[segment];
  const std::size_t each = stride(segment, entry.tokens.size()), bytes = block_bytes(segment, entry.tokens.size());
  fit(cached.block, bytes);
  if (bytes > cached.block.bytes()) hold_budget(bytes - cached.block.bytes(), kept);
  cached.block.reserve(bytes);
  for (std::size_t i = 0; i < cached.keys.size(); ++i) {
    cached.keys[i] = cached.block.data() + 2 * i * each;
    cached.values[i] = cached.block.data() + (2 * i + 1) * each;
  }
}

// Releases a block that is far larger than `bytes`.
void PrefixCache::fit(Block& block, std::size_t bytes) const {
  if (block.bytes() / max_spare > bytes) Block(backend_).swap(block);
}

// Releases oversized blocks of `entry`, except those of its first `kept` segments, and of what passes write to.
void PrefixCache::trim(Entry& entry, std::size_t kept) {
  const std::size_t count = entry.tokens.size();
  std::size_t most = 0;
  for (std::size_t k = 0; k < entry.segments.size(); ++k) {
    if (k >= kept) fit(entry.segments[k].block, block_bytes(k, count));
    most = std::max(most, block_bytes(k, count));
  }
  if (kept == 0 || kept == bundle_.exits()) fit(entry.hidden, count * row_bytes());  // otherwise it holds shared tokens' states
  fit(hidden_next_, count * row_bytes());
  fit(parts_, most);
}

// How many segments are computed for all of an entry's first `count` tokens, with the hidden state behind the last of them.
std::size_t PrefixCache::depth_of(const Entry& entry, std::size_t count) noexcept {
  if (entry.depth >= entry.shared_depth) return entry.depth;
  return count <= entry.shared ? entry.shared_depth : 0;
}

// Copies what `from` holds of its first `count` tokens, out of `held`, `depth` segments deep. If `to` and `from` are the same
// entry, its blocks are first swapped with those that passes write to.
void PrefixCache::copy_shared(Entry& to, Entry& from, std::size_t held, std::size_t count, std::size_t depth) {
  const Model& model = bundle_.model();
  const std::size_t total = to.tokens.size();
  const bool one = &to == &from;
  for (std::size_t k = 0; k < depth; ++k) {
    Cached& cached = to.segments[k];
    if (one) {
      past_keys_ = cached.keys;
      past_values_ = cached.values;
      cached.block.swap(parts_);
    }
    lay_out(to, k, &from);
    const auto &keys = one ? past_keys_ : from.segments[k].keys, &values = one ? past_values_ : from.segments[k].values;
    const std::size_t row = model.head_dim * bytes_of(bundle_.variant().segments[k].cache_dtype);
    HeadRows rows(backend_, model.kv_heads, total * row, held * row, count * row);
    for (std::size_t i = 0; i < cached.keys.size(); ++i) {
      rows.add(as_bytes(cached.keys[i]), as_bytes(keys[i]));
      rows.add(as_bytes(cached.values[i]), as_bytes(values[i]));
    }
    rows.finish();
  }
  if (depth < bundle_.exits()) {
    if (one) to.hidden.swap(hidden_next_);
    const std::size_t bytes = total * row_bytes();
    if (bytes > to.hidden.bytes()) hold_budget(bytes - to.hidden.bytes(), &from);
    to.hidden.reserve(bytes);
    backend_.copy(to.hidden.data(), one ? hidden_next_.data() : from.hidden.data(), count * row_bytes());
  }
  if (count == total) {
    to.depth = depth;
  } else {
    to.shared = count;
    to.shared_depth = depth;
  }
}

std::size_t PrefixCache::deepen() {
  Entry& entry = *used_;
  const std::size_t segment = entry.depth, from = segment < entry.shared_depth ? entry.shared : 0;
  if (from == 0) {
    compute(segment);
  } else {
    compute_behind(segment, from);
  }
  ++entry.depth;
  return bundle_.variant().segments[segment].layers();
}

// Computes a segment for all tokens of the prefix in use.
void PrefixCache::compute(std::size_t index) {
  Entry& entry = *used_;
  lay_out(entry, index, nullptr);
  Pass pass;
  pass.new_keys = entry.segments[index].keys.data();
  pass.new_values = entry.segments[index].values.data();
  run(index, 0, pass);
  if (!bundle_.variant().segments[index].last) entry.hidden.swap(hidden_next_);
}

// Computes a segment for the tokens from `from` on; it is already computed for those before.
void PrefixCache::compute_behind(std::size_t index, std::size_t from) {
  Entry& entry = *used_;
  const Cached& cached = entry.segments[index];
  const Segment& segment = bundle_.variant().segments[index];
  const Model& model = bundle_.model();
  const std::size_t total = entry.tokens.size(), count = total - from, layers = segment.layers();
  const std::size_t row = model.head_dim * bytes_of(segment.cache_dtype);
  lay_out_parts(index, from);
  HeadRows past(backend_, model.kv_heads, from * row, total * row, from * row);
  for (std::size_t i = 0; i < layers; ++i) {
    past.add(as_bytes(past_keys_[i]), as_bytes(cached.keys[i]));
    past.add(as_bytes(past_values_[i]), as_bytes(cached.values[i]));
  }
  past.finish();

  Pass pass;
  pass.past_keys = past_keys_.data();
  pass.past_values = past_values_.data();
  pass.new_keys = new_keys_.data();
  pass.new_values = new_values_.data();
  run(index, from, pass);

  HeadRows added(backend_, model.kv_heads, total * row, count * row, count * row);
  for (std::size_t i = 0; i < layers; ++i) {
    added.add(as_bytes(cached.keys[i]) + from * row, as_bytes(new_keys_[i]));
    added.add(as_bytes(cached.values[i]) + from * row, as_bytes(new_values_[i]));
  }
  added.finish();
  if (!segment.last) backend_.copy(entry.hidden.data() + from * row_bytes(), hidden_next_.data(), count * row_bytes());
}

// Places in parts_ for a pass's past, the first `from` tokens, and for what it adds: it needs both without gaps between heads.
void PrefixCache::lay_out_parts(std::size_t segment, std::size_t from) {
  const std::size_t layers = bundle_.variant().segments[segment].layers(), total = used_->tokens.size();
  const std::size_t before = stride(segment, from), after = stride(segment, total - from);
  std::byte* part = as_bytes(parts_.reserve(product(2, layers, std::max(before + after, stride(segment, total)))));
  const auto place = [&](std::vector<void*>& keys, std::vector<void*>& values, std::size_t each) {
    for (auto* pointers : {&keys, &values}) pointers->resize(std::max(pointers->size(), layers));
    for (std::size_t i = 0; i < layers; ++i)
      for (auto* pointers : {&keys, &values}) {
        (*pointers)[i] = part;
        part += each;
      }
  };
  place(past_keys_, past_values_, before);
  place(new_keys_, new_values_, after);
}

// Runs a segment for the tokens from `from` on. `pass` names the keys and values; hidden states go to hidden_next_.
void PrefixCache::run(std::size_t index, std::size_t from, Pass pass) {
  Entry& entry = *used_;
  const std::size_t total = entry.tokens.size(), hidden = product(total, row_bytes());
  if (index == 0 && hidden > entry.hidden.bytes()) {  // so it holds no shared tokens' states
    hold_budget(hidden - entry.hidden.bytes(), nullptr);
    entry.hidden.reserve(hidden);
  }
  if (positions_.size() < total) {
    positions_.resize(total);
    std::iota(positions_.begin(), positions_.end(), 0);
    groups_.resize(total, 0);
  }
  const auto last = static_cast<std::int64_t>(total - from) - 1;
  pass.tokens = total - from;
  pass.prefix = from;
  pass.rows = 1;
  if (index == 0) vectors_.place(entry.tokens.data() + from, pass);
  pass.hidden_in = entry.hidden.data() + from * row_bytes();
  pass.positions = positions_.data() + from;
  pass.groups = groups_.data();
  pass.row_index = &last;
  if (!bundle_.variant().segments[index].last) pass.hidden_out = hidden_next_.reserve(hidden);
  backend_.run(index, pass);
}

std::size_t PrefixCache::stride(std::size_t segment, std::size_t tokens) const {
  const Model& model = bundle_.model();
  const std::size_t bytes =
      product(model.kv_heads, tokens, model.head_dim, bytes_of(bundle_.variant().segments[segment].cache_dtype));
  return (bytes + backend_.tensor_alignment() - 1) / backend_.tensor_alignment() * backend_.tensor_alignment();
}

// Bytes of a segment's keys and values.
std::size_t PrefixCache::block_bytes(std::size_t segment, std::size_t tokens) const {
  return product(2, bundle_.variant().segments[segment].layers(), stride(segment, tokens));
}

// Bytes of one token's hidden state, which has the same dtype in all segments.
std::size_t PrefixCache::row_bytes() const noexcept {
  return bundle_.model().hidden_size * bytes_of(bundle_.variant().segments.front().hidden_dtype);
}

std::size_t PrefixCache::bytes_of_entry(const Entry& entry) noexcept {
  std::size_t bytes = entry.hidden.bytes() + entry.tokens.capacity() * sizeof(std::int64_t);
  for (const Cached& segment : entry.segments) bytes += segment.block.bytes();
  return bytes;
}

std::size_t PrefixCache::prefixes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& entry : entries_) bytes += bytes_of_entry(*entry);
  return bytes;
}

std::size_t PrefixCache::memory() const noexcept {
  return prefixes() + hidden_next_.bytes() + parts_.bytes() + (positions_.capacity() + groups_.capacity()) * sizeof(std::int64_t);
}

}  // namespace rexit::core

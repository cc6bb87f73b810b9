#include "session/prefix_cache.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/checked.hpp"

namespace rexit::core {
namespace {

// A prefix reuses another's start if that makes up at least one in so many tokens. Measured (docs/notes/speed/prefixes.md):
// what it saves is about its share of the tokens where the model is large, 4 % for a sixteenth; a tiny model neither gains nor
// loses below a quarter. Less than that is not worth scores that differ in their last bits from those of a prefix computed in one
// go.
constexpr std::size_t min_share = 16;
constexpr std::size_t max_spare = 4;  // a prefix that takes over memory keeps up to this many times what it needs
constexpr std::size_t max_left = 4;   // a prefix is covered if at most one in so many of its tokens is not in the other

std::size_t common(const std::vector<std::int64_t>& held, const std::int32_t* tokens, std::size_t count,
                   const VectorRows& vectors) noexcept {
  std::size_t n = 0;
  while (n < count && n < held.size() && held[n] == vectors.key(tokens[n])) ++n;
  return n;
}

bool pays(std::size_t shared, std::size_t count) noexcept { return shared * min_share >= count; }

std::byte* as_bytes(void* data) { return static_cast<std::byte*>(data); }

}  // namespace

// What a prefix gets its start from: a prefix of this cache, or the pinned start.
struct PrefixCache::Source {
  Prefix* prefix = nullptr;
  const PackedPrefix* packed = nullptr;
  std::size_t shared = 0;  // tokens in common
  std::size_t tokens = 0;  // of `prefix`, whose memory may be taken over

  const std::vector<std::size_t>& held() const noexcept { return prefix != nullptr ? prefix->held : packed->held; }
};

PrefixCache::PrefixCache(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t budget,
                         const PinnedStart* start)
    : bundle_(bundle),
      backend_(backend),
      vectors_(vectors),
      budget_(budget),
      start_(start != nullptr && !start->tokens().empty() ? start : nullptr),
      layout_(bundle, backend),
      none_(bundle, backend),
      used_(&none_),
      shared_(bundle.exits()),
      hidden_next_(backend),
      parts_(backend) {
  for (const Segment& segment : bundle.variant().segments)
    for (auto* pointers : {&keys_, &values_}) pointers->emplace_back(segment.layers());
}

std::size_t PrefixCache::use(const std::int32_t* tokens, std::size_t count) {
  used_ = &none_;
  if (count == 0) return 0;
  Source source;
  std::size_t most = 0;
  for (const auto& entry : entries_) {
    const std::size_t n = common(entry->tokens, tokens, count, vectors_);
    if (n == count && n == entry->tokens.size()) {
      start_using(*entry);
      return entry->held.front();
    }
    const std::size_t work = saved(entry->held, n);
    if (work > most && pays(std::min(n, entry->held.front()), count)) {
      most = work;
      source = {entry.get(), nullptr, n, entry->tokens.size()};
    }
  }
  if (const PackedPrefix* start = start_of(tokens, count, most)) source = {nullptr, start, start->tokens.size(), 0};
  if (source.prefix != nullptr) source.prefix->covered = (source.tokens - source.shared) * max_left <= source.tokens;

  Prefix& entry = place_for(count);
  for (std::size_t k = 0; k < shared_.size(); ++k)
    shared_[k] = source.shared != 0 ? std::min(source.shared, source.held()[k]) : 0;
  entry.tokens.clear();
  std::fill(entry.held.begin(), entry.held.end(), 0);
  entry.tokens.resize(count);
  std::transform(tokens, tokens + count, entry.tokens.begin(), [this](std::int32_t id) { return vectors_.key(id); });
  start_using(entry);
  trim(entry, source.prefix == &entry);
  if (source.shared != 0) take(entry, source);
  return entry.held.front();
}

// The pinned start, if these tokens begin with it and copying it saves more than `most` token-layers.
const PackedPrefix* PrefixCache::start_of(const std::int32_t* tokens, std::size_t count, std::size_t most) const {
  if (start_ == nullptr) return nullptr;
  const std::vector<std::int32_t>& start = start_->tokens();
  if (start.size() * bundle_.model().layers <= most || start.size() > count || !pays(start.size(), count) ||
      !std::equal(start.begin(), start.end(), tokens))
    return nullptr;
  return &start_->prefix();
}

void PrefixCache::start_using(Prefix& entry) noexcept {
  used_ = &entry;
  entry.last_use = ++uses_;
  entry.covered = false;
  for (std::size_t k = 0; k < entry.held.size(); ++k)
    if (entry.held[k] != 0) point_to(k);
}

// Points keys_ and values_ to where the segment of the prefix in use lies.
void PrefixCache::point_to(std::size_t segment) noexcept {
  const Tensors tensors = layout_.place(used_->segments[segment], segment, used_->tokens.size());
  for (std::size_t i = 0; i < keys_[segment].size(); ++i) {
    keys_[segment][i] = tensors.data + 2 * i * tensors.stride;
    values_[segment][i] = tensors.data + (2 * i + 1) * tensors.stride;
  }
}

// Tokens times layers that the first `count` tokens need not be computed for.
std::size_t PrefixCache::saved(const std::vector<std::size_t>& held, std::size_t count) const noexcept {
  std::size_t sum = 0;
  for (std::size_t k = 0; k < held.size(); ++k) sum += std::min(count, held[k]) * bundle_.variant().segments[k].layers();
  return sum;
}

void PrefixCache::clear() noexcept {
  used_ = &none_;
  for (const auto& entry : entries_) entry->tokens.clear();
}

// A free entry; or a new one, if the budget has room for one as deep as the deepest and as large as the largest; otherwise the
// first to go.
Prefix& PrefixCache::place_for(std::size_t count) {
  std::size_t depth = 1, most = 0;
  for (const auto& entry : entries_) {
    if (entry->tokens.empty()) return *entry;
    depth = std::max(depth, entry->depth());
    most = std::max(most, entry->bytes());
  }
  std::size_t bytes = count * layout_.hidden_row();
  for (std::size_t k = 0; k < depth; ++k) bytes += layout_.block(k, count);
  bytes = std::max(bytes, most);
  if (!entries_.empty() && prefixes() + bytes > budget_) return *first_to_go(nullptr);
  entries_.push_back(std::make_unique<Prefix>(bundle_, backend_));
  return *entries_.back();
}

// Of the entries other than the one in use and `kept`; free entries first. Null if there is none.
Prefix* PrefixCache::first_to_go(const Prefix* kept) const noexcept {
  const auto order = [](const Prefix& entry) { return std::tuple(!entry.tokens.empty(), !entry.covered, entry.last_use); };
  Prefix* found = nullptr;
  for (const auto& entry : entries_) {
    if (entry.get() == used_ || entry.get() == kept) continue;
    if (found == nullptr || order(*entry) < order(*found)) found = entry.get();
  }
  return found;
}

// Removes entries other than the one in use and `kept` until `more` bytes fit in the budget.
void PrefixCache::hold_budget(std::size_t more, const Prefix* kept) {
  while (prefixes() + more > budget_) {
    const Prefix* victim = first_to_go(kept);
    if (victim == nullptr) return;
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.get() == victim; }));
  }
}

// Makes a block of the prefix in use as large as it has to be; what is in it may be lost.
void PrefixCache::reserve(Block& block, std::size_t bytes, const Prefix* kept) {
  fit(block, bytes);
  if (bytes > block.bytes()) hold_budget(bytes - block.bytes(), kept);
  block.reserve(bytes);
}

// Releases a block that is far larger than `bytes`.
void PrefixCache::fit(Block& block, std::size_t bytes) const {
  if (block.bytes() / max_spare > bytes) Block(backend_).swap(block);
}

// Releases oversized blocks of `entry`, except those of which it `keeps` what shared_ says, and of what passes write to.
void PrefixCache::trim(Prefix& entry, bool keeps) {
  const std::size_t count = entry.tokens.size();
  std::size_t most = 0;
  for (std::size_t k = 0; k < entry.segments.size(); ++k) {
    if (!keeps || shared_[k] == 0) fit(entry.segments[k], layout_.block(k, count));
    most = std::max(most, layout_.block(k, count));
  }
  if (!keeps || shared_.front() == shared_.back()) fit(entry.hidden, count * layout_.hidden_row());
  fit(hidden_next_, count * layout_.hidden_row());
  fit(parts_, most);
}

// Copies what shared_ says from the source. If that is the entry itself, rows move within its blocks, by way of those that passes
// write to.
void PrefixCache::take(Prefix& entry, const Source& source) {
  const std::size_t count = entry.tokens.size(), row = layout_.hidden_row();
  const bool one = source.prefix == &entry;
  for (std::size_t k = 0; k < shared_.size() && shared_[k] != 0; ++k) {
    Tensors from = source.packed != nullptr ? layout_.place_packed(source.packed->segments[k], k, source.packed->held[k])
                                            : layout_.place(source.prefix->segments[k], k, source.tokens);
    if (one) {
      parts_.reserve(layout_.packed(k, shared_[k]));
      const Tensors aside = layout_.place_packed(parts_.data(), k, shared_[k]);
      layout_.copy(aside, from, k, shared_[k]);
      from = aside;
    }
    reserve(entry.segments[k], layout_.block(k, count), source.prefix);
    layout_.copy(layout_.place(entry.segments[k], k, count), from, k, shared_[k]);
    point_to(k);
  }
  const std::size_t from = shared_.back(), states = shared_.front() - from;
  if (states != 0 && !(one && entry.hidden.bytes() >= count * row)) {  // so the source is no pinned start, which has none
    if (one) entry.hidden.swap(hidden_next_);
    reserve(entry.hidden, count * row, source.prefix);
    backend_.copy(entry.hidden.data() + from * row, (one ? hidden_next_ : source.prefix->hidden).data() + from * row,
                  states * row);
  }
  entry.held = shared_;
  hold_budget(0, nullptr);
}

std::vector<const Prefix*> PrefixCache::by_use() const {
  std::vector<const Prefix*> all;
  for (const auto& entry : entries_)
    if (!entry->tokens.empty() && entry->held.front() != 0) all.push_back(entry.get());
  std::sort(all.begin(), all.end(), [](const Prefix* a, const Prefix* b) {
    return std::tuple(a->covered, b->last_use) < std::tuple(b->covered, a->last_use);
  });
  return all;
}

void PrefixCache::load(const std::vector<PackedPrefix>& prefixes) {
  std::vector<std::unique_ptr<Prefix>> loaded;
  std::size_t taken = 0;
  for (const PackedPrefix& from : prefixes) {
    const std::size_t count = from.tokens.size(), states = from.held.front() - from.held.back(), row = layout_.hidden_row();
    std::size_t bytes = count * sizeof(std::int64_t) + (states != 0 ? count * row : 0);
    for (std::size_t k = 0; k < from.held.size() && from.held[k] != 0; ++k) bytes += layout_.block(k, count);
    if (bytes > budget_ - taken) continue;
    taken += bytes;
    auto entry = std::make_unique<Prefix>(bundle_, backend_);
    entry->tokens = from.tokens;
    entry->held = from.held;
    entry->last_use = prefixes.size() - loaded.size();
    for (std::size_t k = 0; k < from.held.size() && from.held[k] != 0; ++k) {
      entry->segments[k].reserve(layout_.block(k, count));
      layout_.copy(layout_.place(entry->segments[k], k, count), layout_.place_packed(from.segments[k], k, from.held[k]), k,
                   from.held[k]);
    }
    if (states != 0) {
      entry->hidden.reserve(count * row);
      backend_.copy(entry->hidden.data() + from.held.back() * row, from.hidden, states * row);
    }
    loaded.push_back(std::move(entry));
  }
  used_ = &none_;
  uses_ = prefixes.size();
  entries_.swap(loaded);
}

std::size_t PrefixCache::deepen() {
  const auto missing = std::find_if(used_->held.begin(), used_->held.end(), [this](std::size_t held) { return held < tokens(); });
  const auto segment = static_cast<std::size_t>(missing - used_->held.begin());
  if (*missing == 0) {
    compute(segment);
  } else {
    compute_behind(segment, *missing);
  }
  *missing = tokens();
  return bundle_.variant().segments[segment].layers();
}

// Computes a segment for all tokens of the prefix in use.
void PrefixCache::compute(std::size_t index) {
  reserve(used_->segments[index], layout_.block(index, tokens()), nullptr);
  point_to(index);
  Pass pass;
  pass.new_keys = keys_[index].data();
  pass.new_values = values_[index].data();
  run(index, 0, pass);
  if (!bundle_.variant().segments[index].last) used_->hidden.swap(hidden_next_);
}

// Computes a segment for the tokens from `from` on; it is already computed for those before.
void PrefixCache::compute_behind(std::size_t index, std::size_t from) {
  const std::size_t heads = bundle_.model().kv_heads, total = tokens(), count = total - from, layers = keys_[index].size();
  const std::size_t row = layout_.row(index);
  lay_out_parts(index, from);
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
    backend_.copy(used_->hidden.data() + from * hidden, hidden_next_.data(), count * hidden);
}

// Places in parts_ for a pass's past, the first `from` tokens, and for what it adds: it needs both without gaps between heads.
void PrefixCache::lay_out_parts(std::size_t segment, std::size_t from) {
  const std::size_t layers = keys_[segment].size(), total = tokens();
  const std::size_t before = layout_.stride(segment, from), after = layout_.stride(segment, total - from);
  std::byte* part = as_bytes(parts_.reserve(product(2, layers, std::max(before + after, layout_.stride(segment, total)))));
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
  Prefix& entry = *used_;
  const std::size_t total = entry.tokens.size(), hidden = product(total, layout_.hidden_row());
  if (index == 0 && hidden > entry.hidden.bytes()) reserve(entry.hidden, hidden, nullptr);  // so no states are in it yet
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
  pass.hidden_in = entry.hidden.data() + from * layout_.hidden_row();
  pass.positions = positions_.data() + from;
  pass.groups = groups_.data();
  pass.row_index = &last;
  if (!bundle_.variant().segments[index].last) pass.hidden_out = hidden_next_.reserve(hidden);
  backend_.run(index, pass);
}

std::size_t PrefixCache::prefixes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& entry : entries_) bytes += entry->bytes();
  return bytes;
}

std::size_t PrefixCache::memory() const noexcept {
  return prefixes() + hidden_next_.bytes() + parts_.bytes() + (positions_.capacity() + groups_.capacity()) * sizeof(std::int64_t);
}

}  // namespace rexit::core

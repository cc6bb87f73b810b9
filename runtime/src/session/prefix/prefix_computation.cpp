#include "session/prefix/prefix_computation.hpp"

#include <algorithm>
#include <numeric>

#include "base/checked.hpp"

namespace rexit::core {
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
  if (segment == 0) vectors_.set_inputs(prefix.tokens.data() + from, pass);
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

}  // namespace rexit::core

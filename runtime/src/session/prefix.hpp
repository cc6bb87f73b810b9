// One prefix: its tokens, and what has been computed of them so far. Where its keys and values lie, and how they are copied.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

// In a backend's memory. Of the first held[k] tokens segment k is computed; no segment is ahead of the one before it.
struct Prefix {
  Prefix(const Bundle& bundle, const Backend& backend);

  std::size_t depth() const noexcept;  // segments computed of some tokens
  std::size_t bytes() const noexcept;

  std::vector<std::int64_t> tokens;  // keys of VectorRows; empty: the place is free
  std::vector<std::size_t> held;     // [segments]
  // [tokens, H], each behind the last segment computed of that token, from which the next one is computed: so those from
  // held.back() to held.front() are there, and no others.
  Block hidden;
  std::vector<Block> segments;  // keys and values, as PrefixLayout::place has them
  std::uint64_t last_use = 0;
  bool covered = false;  // a more recent one has nearly all of it
};

// The same in host memory and without gaps: as prefixes are saved, and as the start of all prefixes is kept.
struct PackedPrefix {
  std::vector<std::int64_t> tokens;
  std::vector<std::size_t> held;
  std::vector<const std::byte*> segments;  // each [layers, 2, kv_heads, held, cache_width], in the segment's cache_dtype
  const std::byte* hidden = nullptr;       // [held.front() - held.back(), H]
};

// A segment's keys and values: tensor j, the keys (j even) or values of layer j / 2, begins at data + j * stride, and its heads
// are `pitch` apart.
struct Tensors {
  std::byte* data;
  std::size_t stride, pitch;
};

// Sizes and places of what belongs to a prefix. All in bytes.
class PrefixLayout {
 public:
  // Both must outlive it.
  PrefixLayout(const Bundle& bundle, const Backend& backend) : bundle_(bundle), backend_(backend) {}

  std::size_t row(std::size_t segment) const noexcept;                // a token's keys in one head
  std::size_t hidden_row() const noexcept;                            // a token's hidden state; of one dtype in all segments
  std::size_t stride(std::size_t segment, std::size_t tokens) const;  // from a tensor to the next, as the backend wants it
  std::size_t block(std::size_t segment, std::size_t tokens) const;   // a segment's keys and values
  std::size_t packed(std::size_t segment, std::size_t tokens) const;  // the same without gaps

  Tensors place(const Block& block, std::size_t segment, std::size_t tokens) const;
  // What is only copied from may be const.
  Tensors place_packed(const std::byte* data, std::size_t segment, std::size_t tokens) const;

  // Copies the first `tokens` of each head.
  void copy(const Tensors& to, const Tensors& from, std::size_t segment, std::size_t tokens) const;
  // Writes a segment of `prefix`, or its hidden states, as PackedPrefix has them, and returns its size. If `to` is null, only
  // that.
  std::size_t pack(const Prefix& prefix, std::size_t segment, std::byte* to) const;
  std::size_t pack_hidden(const Prefix& prefix, std::byte* to) const;

 private:
  const Bundle& bundle_;
  const Backend& backend_;
};

// Copies one row per head from tensor to tensor. Tensors that are adjacent in both places go in one copy.
class HeadRows {
 public:
  HeadRows(const Backend& backend, std::size_t heads, std::size_t to_pitch, std::size_t from_pitch, std::size_t bytes)
      : backend_(backend), heads_(heads), to_pitch_(to_pitch), from_pitch_(from_pitch), bytes_(bytes) {}

  void add(std::byte* to, const std::byte* from);
  void finish();

 private:
  const Backend& backend_;
  const std::size_t heads_, to_pitch_, from_pitch_, bytes_;
  std::byte* to_ = nullptr;
  const std::byte* from_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace rexit::core

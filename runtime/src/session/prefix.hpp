// A prefix: its tokens and what has been computed of them. PrefixLayout says where its keys and values lie, and copies them.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

// A prefix in a backend's memory. Segment k has been computed for the first computed_tokens[k] tokens, and no segment is ahead of
// its predecessor. With three segments and computed_tokens 6, 4, 4:
//
//   token        0  1  2  3  4  5  6  7
//   segment 0    k  k  k  k  k  k             k: keys and values are in segments[0]
//   segment 1    k  k  k  k
//   segment 2    k  k  k  k
//   hidden                   h  h             h: output of segment 0, which segment 1 will read
//
struct Prefix {
  Prefix(const Bundle& bundle, const Backend& backend);

  std::size_t depth() const noexcept;  // number of segments computed for at least a token
  std::size_t bytes() const noexcept;

  std::vector<std::int64_t> tokens;          // empty: the entry is free
  std::vector<std::size_t> computed_tokens;  // [segments]
  // [tokens, H]: the output of a token's last computed segment, input of the next. Only rows from computed_tokens.back() to
  // computed_tokens.front() are valid.
  Block hidden;
  std::vector<Block> segments;  // keys and values, see PrefixLayout::tensors_of
  std::uint64_t last_use = 0;
  bool superseded = false;  // a more recent prefix contains most of it
};

// The pinned start in host memory, without gaps. Every segment has been computed for all tokens.
struct PackedPrefix {
  std::size_t tokens = 0;
  std::vector<const std::byte*> segments;  // [layers, 2, kv_heads, tokens, head_dim] in the segment's cache_dtype
};

// A segment's keys and values. Tensor j begins at data + j * stride: the keys (j even) or values (j odd) of layer j / 2. Its
// heads are `pitch` apart.
struct Tensors {
  std::byte* data;
  std::size_t stride, pitch;
};

// Sizes and addresses of a prefix's data, in bytes.
class PrefixLayout {
 public:
  // Both must outlive the layout.
  PrefixLayout(const Bundle& bundle, const Backend& backend) : bundle_(bundle), backend_(backend) {}

  std::size_t row(std::size_t segment) const noexcept;                      // a token's key in a head
  std::size_t hidden_row() const noexcept;                                  // a token's hidden state, the same in all segments
  std::size_t stride(std::size_t segment, std::size_t tokens) const;        // between tensors, aligned for the backend
  std::size_t block_bytes(std::size_t segment, std::size_t tokens) const;   // a segment's keys and values
  std::size_t packed_bytes(std::size_t segment, std::size_t tokens) const;  // the same without gaps

  Tensors tensors_of(const Block& block, std::size_t segment, std::size_t tokens) const;
  // The result is writable although `data` is const: write only where `data` is writable.
  Tensors packed_tensors(const std::byte* data, std::size_t segment, std::size_t tokens) const;

  // Copies the first `tokens` tokens of every head.
  void copy(const Tensors& to, const Tensors& from, std::size_t segment, std::size_t tokens) const;
  // Packs a segment of `prefix` as in PackedPrefix.
  void pack(const Prefix& prefix, std::size_t segment, std::byte* to) const;

 private:
  const Bundle& bundle_;
  const Backend& backend_;
};

// Copies a row per head from tensor to tensor. A single copy moves tensors that are adjacent in both source and destination.
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

// The pinned start: the common start of all prefixes of a bundle, computed once for all sessions and kept while the bundle is
// open.

// The tokens of the prompt program's leading pieces, up to the first op that depends on the user, at most 4,096, at full depth.
// It is computed at open: in a request it would miss that request's deadline and delay others. It lies in host memory, from which
// sessions on a GPU can copy on their own streams.
class PinnedStart {
 public:
  // Runs all segments if there is a common start. Throws REXIT_BACKEND_FAILED.
  PinnedStart(const Bundle& bundle, const BackendFactory& make_backend);
  PinnedStart(const PinnedStart&) = delete;
  PinnedStart& operator=(const PinnedStart&) = delete;

  // Empty if prefixes have no common start, or too short a start to save time.
  static std::vector<std::int32_t> tokens_of(const Bundle& bundle);
  const std::vector<std::int32_t>& tokens() const noexcept { return tokens_; }
  const PackedPrefix& prefix() const noexcept { return prefix_; }
  std::size_t bytes() const noexcept { return memory_.size(); }

 private:
  std::vector<std::int32_t> tokens_;
  PackedPrefix prefix_;
  std::vector<std::byte> memory_;  // owns the data of prefix_
};

}  // namespace rexit::core

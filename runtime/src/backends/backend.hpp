// The interface to the libraries that run segments. The session packs, caches and decides. A backend computes a segment over the
// caller's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "bundle/bundle.hpp"

namespace rexit::core {

// Ends a run in another thread as soon as the backend can; the run then throws. Any thread may call it, also during a run.
class Stop {
 public:
  virtual ~Stop() = default;
  virtual void request() noexcept = 0;
  virtual void reset() noexcept = 0;  // does not stop later runs
};

// A run of a segment: T tokens after P prefix tokens; the head reads N rows. Hidden states, keys and values are in memory from
// Backend::allocate, in the segment's dtypes; everything else is in host memory. Keys and values are aligned to
// Backend::tensor_alignment(); hidden states may begin at any row.
struct Pass {
  std::size_t tokens = 0, prefix = 0, rows = 0;
  const std::int64_t* token_ids = nullptr;                     // [T], first segment
  const void* hidden_in = nullptr;                             // [T, H], other segments
  const std::int64_t *positions = nullptr, *groups = nullptr;  // [T]
  const std::int64_t* row_index = nullptr;                     // [N]
  // By layer of the segment: [kv_heads, P, head_dim]; unused if P = 0.
  const void *const *past_keys = nullptr, *const *past_values = nullptr;

  // Outputs; null: discarded.
  void* hidden_out = nullptr;                                     // [T, H]
  float* logits = nullptr;                                        // [N, 2], (no, yes)
  void *const *new_keys = nullptr, *const *new_values = nullptr;  // by layer: [kv_heads, T, head_dim]

  const Stop* stop = nullptr;    // from this backend's make_stop(); null: the run cannot be stopped
  std::size_t side_by_side = 1;  // so many passes run at a time; several: each computes in its caller's thread
};

// Rows that stay together: `count` of them move from row `from` to row `to`, which is not behind it.
struct RowMove {
  std::size_t from, to, count;
};

// A session's backend. Calls take effect in order. Calls that touch only GPU memory may return before they take effect.
class Backend {
 public:
  virtual ~Backend() = default;

  // When it returns, `logits` are complete and inputs in host memory are no longer in use. Throws REXIT_BACKEND_FAILED.
  virtual void run(std::size_t segment, const Pass& pass) const = 0;
  // How many threads may run passes at a time, at best.
  virtual std::size_t concurrency() const noexcept { return 1; }

  // Memory for passes, with their alignment. The host may be unable to address it.
  virtual void* allocate(std::size_t bytes) const = 0;
  virtual void release(void* memory) const noexcept = 0;
  virtual std::size_t tensor_alignment() const noexcept { return 1; }  // for keys and values; a power of two

  // Either side may be host memory outside of passes: it must stay as it is until finish_copies() returns. The ranges may
  // overlap.
  virtual void copy(void* to, const void* from, std::size_t bytes) const = 0;
  // Copies `count` rows of `bytes`, a pitch apart. The ranges must not overlap.
  virtual void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                         std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i)
      copy(static_cast<std::byte*>(to) + i * to_pitch, static_cast<const std::byte*>(from) + i * from_pitch, bytes);
  }
  // Moves rows of `bytes` within `rows`, memory from allocate(). `moves` ascend, and the rows lie side by side where they go.
  virtual void move_rows(void* rows, std::size_t bytes, const RowMove* moves, std::size_t count) const {
    auto* const data = static_cast<std::byte*>(rows);
    for (const RowMove* move = moves; move != moves + count; ++move)
      copy(data + move->to * bytes, data + move->from * bytes, move->count * bytes);
  }

  // Waits until copies from and to host memory are complete. Throws REXIT_BACKEND_FAILED.
  virtual void finish_copies() const {}

  // Null: the backend cannot stop a run.
  virtual std::unique_ptr<Stop> make_stop() const { return nullptr; }
  virtual std::size_t gpu_bytes() const { return 0; }  // of this session's passes
  virtual void trim() const {}                         // releases them
};

// Returns the backend of another session over a variant's segments, which are loaded once. Sessions may share a backend.
using BackendFactory = std::function<std::shared_ptr<const Backend>()>;

// Exit zero's graph. Any number of threads may run it.
class ZeroGraph {
 public:
  virtual ~ZeroGraph() = default;
  // numbers: [rows, the program's numbers]; log_odds: [rows]. Throws REXIT_BACKEND_FAILED.
  virtual void run(const float* numbers, std::size_t rows, float* log_odds) const = 0;
};

// Loads the graph of a bundle that has one. Keeps no reference to the bundle.
using ZeroFactory = std::function<std::shared_ptr<const ZeroGraph>(const Bundle&)>;

// Where and how a bundle runs.
using Execution = rexit_bundle_options;

// Loads the segments for the requested device. The backends keep no reference to `bundle`. Throws REXIT_INVALID_ARGUMENT for an
// unknown device or one that cannot run the variant, REXIT_BACKEND_MISSING if this build or this machine lacks the device's
// backend.
BackendFactory make_backend_factory(const Bundle& bundle, const Execution& execution);

// Runs in the calling thread, by ONNX Runtime on the CPU whatever the device. `execution` is unused after the first bundle of the
// process.
std::shared_ptr<const ZeroGraph> load_zero_graph(const Bundle& bundle, const Execution& execution);

// The conditions that a bundle runs under, without rexit's version.
Conditions conditions_of(const Bundle& bundle, const Execution& execution);

// A block of a backend's memory that only grows. The backend must outlive it.
class Block {
 public:
  explicit Block(const Backend& backend) : backend_(&backend) {}
  Block(Block&& other) noexcept
      : backend_(other.backend_), memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  Block& operator=(Block&&) = delete;
  ~Block() { backend_->release(memory_); }

  // Grows to at least `bytes`. A block that grows loses its contents.
  void* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      backend_->release(std::exchange(memory_, nullptr));
      bytes_ = 0;
      memory_ = backend_->allocate(bytes);
      bytes_ = bytes;
    }
    return memory_;
  }
  std::byte* data() const noexcept { return static_cast<std::byte*>(memory_); }
  std::size_t bytes() const noexcept { return bytes_; }
  void swap(Block& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
  }

 private:
  const Backend* backend_;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace rexit::core

// The interface to what runs segments. The session packs, caches and decides; a backend only computes one segment over the memory
// it is given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "bundle/bundle.hpp"

namespace rexit::core {

// Ends a run in another thread as soon as the backend can; the run then throws. Both functions may be called during a run.
class Stop {
 public:
  virtual ~Stop() = default;
  virtual void request() noexcept = 0;
  virtual void withdraw() noexcept = 0;  // later runs are not stopped
};

// One run of a segment: T tokens behind P prefix tokens, with N rows to read. Hidden states, keys and values are in memory from
// Backend::allocate, in the segment's dtypes; everything else is in host memory. Keys and values are aligned to
// Backend::tensor_alignment(); hidden states may begin at any row.
struct Pass {
  std::size_t tokens = 0, prefix = 0, rows = 0;
  const std::int64_t* token_ids = nullptr;                     // [T], first segment; from the vocabulary on: rows of `vectors`
  const float* vectors = nullptr;                              // [R, H], first segment, if it takes them
  std::size_t vector_rows = 0;                                 // R, 1 to T
  const void* hidden_in = nullptr;                             // [T, H], the others
  const std::int64_t *positions = nullptr, *groups = nullptr;  // [T]
  const std::int64_t* row_index = nullptr;                     // [N]
  // Per layer of the segment: [kv_heads, P, head_dim]; only read when P > 0.
  const void *const *past_keys = nullptr, *const *past_values = nullptr;

  // Outputs; null: not wanted.
  void* hidden_out = nullptr;                                     // [T, H]
  float* logits = nullptr;                                        // [N, 2], (no, yes)
  void *const *new_keys = nullptr, *const *new_values = nullptr;  // per layer [kv_heads, T, head_dim]

  const Stop* stop = nullptr;  // from this backend's make_stop(); null: the run cannot be stopped
};

// Bytes that a backend holds for all sessions together.
struct BackendMemory {
  std::size_t working = 0;  // needed while segments run
  std::size_t weights = 0;  // kept as long as a bundle is open
};

// What one session computes with. Calls take effect in the order they are made; those that touch only GPU memory may return
// before they have taken effect.
class Backend {
 public:
  virtual ~Backend() = default;

  // Throws REXIT_BACKEND_FAILED. When it returns, `logits` are complete and inputs in host memory are no longer needed.
  virtual void run(std::size_t segment, const Pass& pass) const = 0;

  // Memory for passes, aligned as they require; possibly not addressable by the host.
  virtual void* allocate(std::size_t bytes) const = 0;
  virtual void release(void* memory) const noexcept = 0;
  virtual std::size_t tensor_alignment() const noexcept { return 1; }  // of keys and values; a power of two

  // One side may be host memory that a pass does not see: when the call returns, what was there is read, or what goes there is
  // written. Ranges of a copy() may overlap.
  virtual void copy(void* to, const void* from, std::size_t bytes) const = 0;
  // `count` rows of `bytes` each, one pitch apart. The ranges must not overlap.
  virtual void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                         std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i)
      copy(static_cast<std::byte*>(to) + i * to_pitch, static_cast<const std::byte*>(from) + i * from_pitch, bytes);
  }

  // Null: runs of this backend cannot be stopped.
  virtual std::unique_ptr<Stop> make_stop() const { return nullptr; }
  // Zeros if the backend does not know. trim() releases working memory that no run is using.
  virtual BackendMemory memory() const { return {}; }
  virtual void trim() const {}
};

// Makes the backend for one more session over a variant's segments, which are loaded once; sessions may share one backend.
using BackendFactory = std::function<std::shared_ptr<const Backend>()>;

// Where and how a bundle runs, as in rexit_bundle_options.
struct Execution {
  const char* library = nullptr;  // ONNX Runtime's
  std::int32_t threads = 0;
  const char* device = nullptr;  // null: the variant's own
  std::int32_t device_id = 0;
  bool cuda_graphs = false;
};

// Loads the segments for the requested device. The backends do not need `bundle` any longer. Throws REXIT_INVALID_ARGUMENT for a
// device that does not exist or that the variant cannot run on, REXIT_BACKEND_MISSING if this build or this machine has nothing
// that runs it.
BackendFactory make_backend_factory(const Bundle& bundle, const Execution& execution);

// What a bundle with this backend runs on, but for rexit itself.
Conditions conditions_of(const Bundle& bundle, const Execution& execution);

// A block of a backend's memory, which only grows. The backend must outlive it.
class Block {
 public:
  explicit Block(const Backend& backend) : backend_(&backend) {}
  Block(Block&& other) noexcept
      : backend_(other.backend_), memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  Block& operator=(Block&&) = delete;
  ~Block() { backend_->release(memory_); }

  // At least `bytes`. If the block has to grow, its contents are lost.
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

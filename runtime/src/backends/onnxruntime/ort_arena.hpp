// The memory in which ONNX Runtime runs segments: an arena per concurrent run.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

#include "backends/onnxruntime/ort_api.hpp"

namespace rexit::core {

// Keeps freed blocks for the next run, which needs similar sizes; at most half of the peak use, since prompts differ in length.
// ONNX Runtime's own arena does not report its usage before version 1.23, and returns memory only at the end of a run.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { trim(); }

  // Bytes of blocks, in use or free.
  struct Usage {
    std::size_t runs;
    std::size_t weights;  // and everything else that ONNX Runtime keeps while a bundle is open
  };
  Usage usage() const;
  // Releases the free blocks.
  void trim();

  // Null for 0 bytes. Throws std::bad_alloc.
  void* allocate(std::size_t bytes);
  void* reserve(std::size_t bytes);
  // Returns a block of any arena to its arena.
  static void free(void* block) noexcept;

 private:
  friend class OrtArena;

  struct FreeBlock {
    std::size_t bytes;
    void* memory;
  };
  using FreeBlocks = std::vector<FreeBlock>;

  FreeBlocks::iterator find_free(std::size_t bytes) noexcept;
  void* new_block(std::size_t bytes, bool reserved);
  void add_in_use(std::size_t bytes) noexcept;
  void release_for(std::size_t bytes) noexcept;
  void reclaim(void* block) noexcept;

  mutable std::mutex mutex_;
  FreeBlocks free_;  // by size
  Usage usage_{0, 0};
  std::size_t in_use_ = 0, peak_in_use_ = 0;  // bytes that usage_.runs includes; the peak since the last trim
  std::size_t block_count_ = 0;               // allocations so far
  std::atomic_flag in_run_ = ATOMIC_FLAG_INIT;
  Arena* next_ = nullptr;
};

// ONNX Runtime's allocator. Concurrent runs have separate arenas, so that sessions do not wait for each other's locks; the number
// of arenas is the largest number of concurrent runs. Allocations outside of runs share another arena.
class OrtArena final : public OrtAllocator {
 public:
  OrtArena();
  OrtArena(const OrtArena&) = delete;
  OrtArena& operator=(const OrtArena&) = delete;
  ~OrtArena();

  // Gives this thread an arena that no other run uses, for the duration of its scope.
  class Run {
   public:
    explicit Run(OrtArena& arena);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

   private:
    Arena& arena_;
    Arena* outer_;  // of a run in whose log callback this one runs; null: there is none
  };

  // The arena of this thread's run, or the shared arena.
  Arena& current() noexcept;
  // The sum over all arenas.
  Arena::Usage usage() const;
  void trim();

 private:
  Arena& acquire_idle();

  Ort::MemoryInfo info_;
  Arena shared_;
  std::atomic<Arena*> first_{nullptr};  // list of the runs' arenas, which only grows
};

}  // namespace rexit::core

// The memory in which ONNX Runtime runs segments: an arena for each run at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "backends/onnxruntime/ort_api.hpp"

namespace rexit::core {

// Freed blocks are kept for the next run, which needs much the same ones; no more of them than half of the peak use, since
// prompts differ in length and none needs everything that the others left. ONNX Runtime has an arena of its own, but before
// version 1.23 it does not report what it holds, and it returns memory only at the end of a run.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { trim(); }

  // Bytes in use or free: for runs, and for weights and everything else that ONNX Runtime keeps as long as a bundle is open.
  struct Held {
    std::size_t runs, weights;
  };
  Held held() const;
  // Releases the free blocks.
  void trim();

  // Null for no bytes. Throws std::bad_alloc.
  void* allocate(std::size_t bytes);
  void* reserve(std::size_t bytes);
  // A block of any arena goes back to that one.
  static void free(void* block) noexcept;

 private:
  friend class OrtArena;

  struct FreeBlock {
    std::size_t bytes;
    void* memory;
  };
  using FreeBlocks = std::vector<FreeBlock>;

  FreeBlocks::iterator first_of(std::size_t bytes) noexcept;
  void* take(std::size_t bytes, bool reserved);
  void use(std::size_t bytes) noexcept;
  void make_room(std::size_t bytes) noexcept;
  void give_back(FreeBlocks::iterator block) noexcept;
  void take_back(void* block) noexcept;

  mutable std::mutex mutex_;
  FreeBlocks free_;  // by size
  Held held_{0, 0};
  std::size_t in_use_ = 0, peak_in_use_ = 0;  // of held_.runs; the peak since the last trim
  std::size_t blocks_ = 0;                    // allocated so far
  std::atomic_flag in_run_ = ATOMIC_FLAG_INIT;
  Arena* next_ = nullptr;
};

// What ONNX Runtime allocates from. Runs at the same time have an arena each, so that sessions wait for no lock of each other;
// there are as many arenas as there were runs at the same time. Whatever is allocated outside of runs shares one more.
class OrtArena final : public OrtAllocator {
 public:
  OrtArena();
  OrtArena(const OrtArena&) = delete;
  OrtArena& operator=(const OrtArena&) = delete;
  ~OrtArena();

  // While it lives, this thread has an arena that no other run has.
  class Run {
   public:
    explicit Run(OrtArena& arena);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

   private:
    Arena& arena_;
  };

  // The arena of this thread's run, or the shared one.
  Arena& here() noexcept;
  // Of all arenas together.
  Arena::Held held() const;
  void trim();

 private:
  Arena& unused();

  Ort::MemoryInfo info_;
  Arena shared_;
  std::atomic<Arena*> first_{nullptr};  // of those for runs; they are added and never removed
};

}  // namespace rexit::core

// The memory in which ONNX Runtime runs segments: one arena per process.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

#include "backends/onnxruntime/ort_api.hpp"

namespace rexit::core {

// Freed blocks are kept for the next run, which needs much the same ones; no more of them than half of the peak use, since
// prompts differ in length and none needs everything that the others left. ONNX Runtime has an arena of its own, but before
// version 1.23 it does not report what it holds, and it returns memory only at the end of a run.
class OrtArena final : public OrtAllocator {
 public:
  OrtArena();
  OrtArena(const OrtArena&) = delete;
  OrtArena& operator=(const OrtArena&) = delete;

  // Bytes in use or free: for runs, and for weights and everything else that ONNX Runtime keeps as long as a bundle is open.
  struct Held {
    std::size_t runs, weights;
  };
  Held held() const;
  // Releases the free blocks.
  void trim();

 private:
  void* allocate(std::size_t bytes);
  void* reserve(std::size_t bytes);
  void free(void* memory) noexcept;
  void* take(std::size_t bytes, bool reserved);
  void use(std::size_t bytes) noexcept;
  void make_room(std::size_t bytes) noexcept;
  void give_back(std::multimap<std::size_t, void*>::iterator block) noexcept;

  Ort::MemoryInfo info_;
  mutable std::mutex mutex_;
  std::multimap<std::size_t, void*> free_;  // by size
  Held held_{0, 0};
  std::size_t in_use_ = 0, peak_in_use_ = 0;  // of held_.runs; the peak since the last trim
  std::size_t blocks_ = 0;                    // allocated so far
};

}  // namespace rexit::core

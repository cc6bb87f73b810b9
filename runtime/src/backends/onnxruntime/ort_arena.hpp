// The memory that ONNX Runtime's segments work in: one arena per process.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace rexit::core {

// Blocks that were freed wait for the next run, which asks for much the same again; no more of them than half of what was ever in
// use at once, since prompts differ in length and none of them needs all that others left. ONNX Runtime has an arena of its own,
// but one that does not tell what it holds, before version 1.23, and gives memory back at the end of a run alone.
class OrtArena final : public OrtAllocator {
 public:
  OrtArena();
  OrtArena(const OrtArena&) = delete;
  OrtArena& operator=(const OrtArena&) = delete;

  // Bytes, in use or waiting: for runs, and for weights and whatever else ONNX Runtime keeps as long as a bundle is open.
  struct Held {
    std::size_t runs, weights;
  };
  Held held() const;
  // Gives back the blocks that wait.
  void trim();

 private:
  void* allocate(std::size_t bytes);
  void* reserve(std::size_t bytes);
  void free(void* memory) noexcept;
  void* take(std::size_t bytes, bool reserved);
  void use(std::size_t bytes) noexcept;
  void make_room(std::size_t bytes) noexcept;
  void give_back(std::multimap<std::size_t, void*>::iterator waiting) noexcept;

  Ort::MemoryInfo info_;
  mutable std::mutex mutex_;
  std::multimap<std::size_t, void*> waiting_;  // by size
  Held held_{0, 0};
  std::size_t in_use_ = 0, most_in_use_ = 0;  // of held_.runs; the most since the last trim
  std::size_t blocks_ = 0;                    // made so far
};

}  // namespace rexit::core

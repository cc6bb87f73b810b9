// The caller's threads, on which kernels run in tasks; its memory for a kernel's run; and the memory that each thread keeps for
// its next task.
#pragma once

#include <cstddef>

namespace rexit::core::kernels {

class Threads {
 public:
  using Function = void (*)(void* data, std::size_t i);

  // Calls `function(data, i)` for every i < count and returns when all calls have returned. Throws std::bad_alloc if one of them
  // threw: only after all have returned, since the threads may be inside code that exceptions must not cross.
  void run(Function function, std::size_t count, void* data) const;

  // Memory for one run of a kernel.
  class Scratch {
   public:
    Scratch(const Threads& threads, std::size_t bytes) : threads_(threads), memory_(threads.allocate(bytes)) {}
    ~Scratch() { threads_.release(memory_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    std::byte* data() const noexcept { return static_cast<std::byte*>(memory_); }

   private:
    const Threads& threads_;
    void* memory_;
  };

 protected:
  ~Threads() = default;
  // More than 0 bytes, aligned to a cache line: a vector that crosses two lines takes two loads. Throws std::bad_alloc.
  virtual void* allocate(std::size_t bytes) const = 0;
  virtual void release(void* memory) const noexcept = 0;
  // The same, for a function that does not throw.
  virtual void spread(Function function, std::size_t count, void* data) const = 0;
};

constexpr std::size_t cache_line = 64;

// Room for at least `count` of each, valid until this thread calls the same function again. Floats start at a cache line.
float* scratch_floats(std::size_t count);
const float** scratch_rows(std::size_t count);

}  // namespace rexit::core::kernels

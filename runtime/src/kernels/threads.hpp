// The caller's thread pool and memory, for a kernel's run, and memory that a thread reuses for its next task.
#pragma once

#include <cstddef>

namespace rexit::core::kernels {

class Threads {
 public:
  using Function = void (*)(void* data, std::size_t i);

  // Calls `function(data, i)` for every i < count and returns after all calls. Then throws std::bad_alloc if a call threw; not
  // earlier, since exceptions must not cross the pool's code.
  void run(Function function, std::size_t count, void* data) const;

  // Memory for a kernel's run.
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
  // `bytes` > 0. Aligned to a cache line, since a vector across two lines takes two loads. Throws std::bad_alloc.
  virtual void* allocate(std::size_t bytes) const = 0;
  virtual void release(void* memory) const noexcept = 0;
  // As run(), for a function that does not throw.
  virtual void run_nothrow(Function function, std::size_t count, void* data) const = 0;
};

constexpr std::size_t cache_line = 64;

// Memory for at least `count` elements, valid until this thread's next call of the same function. Floats start at a cache line.
float* scratch_floats(std::size_t count);
float* block_floats(std::size_t count);  // for a task whose parts use the other two
const float** scratch_rows(std::size_t count);

}  // namespace rexit::core::kernels

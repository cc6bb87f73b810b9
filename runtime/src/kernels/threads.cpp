#include "kernels/threads.hpp"

#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

namespace rexit::core::kernels {
namespace {

struct GuardedTask {
  Threads::Function function;
  void* data;
  std::atomic<bool> failed{false};
};

// Tasks allocate and do arithmetic, so they can throw only std::bad_alloc.
void run_guarded(void* data, std::size_t i) {
  GuardedTask& task = *static_cast<GuardedTask*>(data);
  if (task.failed) return;
  try {
    task.function(task.data, i);
  } catch (...) {
    task.failed = true;
  }
}

// At least `count` floats from a cache line on.
float* aligned(std::vector<float>& memory, std::size_t count) {
  constexpr std::size_t line = cache_line / sizeof(float);
  if (memory.size() < count + line) memory.resize(count + line);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (cache_line - address % cache_line) % cache_line / sizeof(float);
}

}  // namespace

void Threads::run(Function function, std::size_t count, void* data) const {
  GuardedTask task{function, data};
  run_nothrow(run_guarded, count, &task);
  if (task.failed) throw std::bad_alloc();
}

float* scratch_floats(std::size_t count) {
  static thread_local std::vector<float> memory;
  return aligned(memory, count);
}

float* block_floats(std::size_t count) {
  static thread_local std::vector<float> memory;
  return aligned(memory, count);
}

const float** scratch_rows(std::size_t count) {
  static thread_local std::vector<const float*> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

}  // namespace rexit::core::kernels

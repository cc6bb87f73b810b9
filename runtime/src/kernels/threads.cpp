#include "kernels/threads.hpp"

#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

namespace rexit::core::kernels {
namespace {

struct Guarded {
  Threads::Function function;
  void* data;
  std::atomic<bool> failed{false};
};

// Tasks allocate and do arithmetic: std::bad_alloc is all they can throw.
void guard(void* data, std::size_t i) {
  Guarded& guarded = *static_cast<Guarded*>(data);
  if (guarded.failed) return;
  try {
    guarded.function(guarded.data, i);
  } catch (...) {
    guarded.failed = true;
  }
}

}  // namespace

void Threads::run(Function function, std::size_t count, void* data) const {
  Guarded guarded{function, data};
  spread(guard, count, &guarded);
  if (guarded.failed) throw std::bad_alloc();
}

float* scratch_floats(std::size_t count) {
  static thread_local std::vector<float> memory;
  constexpr std::size_t line = cache_line / sizeof(float);
  if (memory.size() < count + line) memory.resize(count + line);
  const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (cache_line - at % cache_line) % cache_line / sizeof(float);
}

const float** scratch_rows(std::size_t count) {
  static thread_local std::vector<const float*> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

}  // namespace rexit::core::kernels

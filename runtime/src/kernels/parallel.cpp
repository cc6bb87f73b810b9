#include "kernels/parallel.hpp"

#include <atomic>
#include <new>

namespace rexit::core::kernels {
namespace {

struct Guarded {
  Threads::Function function;
  void* data;
  std::atomic<bool> failed{false};
};

// A task takes memory and does arithmetic: nothing else can be thrown.
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

}  // namespace rexit::core::kernels

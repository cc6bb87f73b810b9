// Work in pieces, on whatever threads the caller has.
#pragma once

#include <cstddef>

namespace rexit::core::kernels {

// Calls `function(data, i)` once for every i < count and returns when all have returned.
class Threads {
 public:
  using Function = void (*)(void* data, std::size_t i);
  virtual void run(Function function, std::size_t count, void* data) const = 0;

 protected:
  ~Threads() = default;
};

}  // namespace rexit::core::kernels

// Work in pieces, on whatever threads the caller has.
#pragma once

#include <cstddef>

namespace rexit::core::kernels {

class Threads {
 public:
  using Function = void (*)(void* data, std::size_t i);

  // Calls `function(data, i)` for every i < count and returns when all have returned. Throws std::bad_alloc when one of them did:
  // only then, since the threads may be in code that no exception may pass.
  void run(Function function, std::size_t count, void* data) const;

 protected:
  ~Threads() = default;
  // The same for a function that throws nothing.
  virtual void spread(Function function, std::size_t count, void* data) const = 0;
};

}  // namespace rexit::core::kernels

// The caller's threads, on which kernels run in tasks, and the memory each of them keeps for its next task.
#pragma once

#include <cstddef>
#include <vector>

namespace rexit::core::kernels {

class Threads {
 public:
  using Function = void (*)(void* data, std::size_t i);

  // Calls `function(data, i)` for every i < count and returns when all calls have returned. Throws std::bad_alloc if one of them
  // threw: only after all have returned, since the threads may be inside code that exceptions must not cross.
  void run(Function function, std::size_t count, void* data) const;

 protected:
  ~Threads() = default;
  // The same, for a function that does not throw.
  virtual void spread(Function function, std::size_t count, void* data) const = 0;
};

// Room for at least `count` floats in `memory`, starting at a cache line: a vector that crosses two lines takes two loads.
float* aligned_floats(std::vector<float>& memory, std::size_t count);

// Room for at least `count` of each, valid until this thread calls the same function again.
float* scratch_floats(std::size_t count);
const float** scratch_rows(std::size_t count);

}  // namespace rexit::core::kernels

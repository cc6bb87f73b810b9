// Memory that a thread keeps for its next task.
#pragma once

#include <cstddef>

namespace rexit::core::kernels {

// At least `count` of each, until the thread's next call of the same function.
float* scratch_floats(std::size_t count);
const float** scratch_rows(std::size_t count);

}  // namespace rexit::core::kernels

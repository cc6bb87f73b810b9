#include "kernels/table.hpp"

#include <vector>

#include "kernels/scratch.hpp"

namespace rexit::core::kernels {
namespace {

template <class T>
T* at_least(std::vector<T>& memory, std::size_t count) {
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

}  // namespace

const Table& table() noexcept {
#if defined(__x86_64__)
  static const Table& found = [&]() -> const Table& {
    const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    const bool avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                        __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    return avx2 && avx512 ? avx512_table : avx2 ? avx2_table : baseline_table;
  }();
  return found;
#else
  return baseline_table;
#endif
}

float* scratch_floats(std::size_t count) {
  static thread_local std::vector<float> memory;
  return at_least(memory, count);
}

const float** scratch_rows(std::size_t count) {
  static thread_local std::vector<const float*> memory;
  return at_least(memory, count);
}

}  // namespace rexit::core::kernels

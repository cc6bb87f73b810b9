#include "kernels/lanes.hpp"

namespace rexit::core::kernels {

Instructions instructions() noexcept {
#if defined(__x86_64__)
  static const Instructions found = [] {
    const bool avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                        __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    return avx512 && avx2 ? Instructions::avx512 : avx2 ? Instructions::avx2 : Instructions::baseline;
  }();
  return found;
#else
  return Instructions::baseline;
#endif
}

}  // namespace rexit::core::kernels

#include "kernels/table.hpp"

namespace rexit::core::kernels {

const std::vector<const Table*>& tables() {
  static const std::vector<const Table*> found = [] {
    std::vector<const Table*> all;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) all.push_back(&avx512_table);
    if (avx2) all.push_back(&avx2_table);
#endif
    all.push_back(&baseline_table);
    return all;
  }();
  return found;
}

}  // namespace rexit::core::kernels

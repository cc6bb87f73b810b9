#include "kernels/table.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rexit::core::kernels {
#if defined(__x86_64__)
namespace {

// Not every compiler's __builtin_cpu_supports knows it.
bool converts_halves() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace
#endif

const std::vector<const Table*>& tables() {
  static const std::vector<const Table*> found = [] {
    std::vector<const Table*> all;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_halves();
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

#include "kernels/table.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rexit::core::kernels {
#if defined(__x86_64__)
namespace {

// F16C, which not every compiler's __builtin_cpu_supports knows.
bool has_half_conversion() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace
#endif

const std::vector<const Table*>& tables() {
  static const std::vector<const Table*> supported = [] {
    std::vector<const Table*> tables;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half_conversion();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) tables.push_back(&avx512_table);
    if (avx2) tables.push_back(&avx2_table);
#endif
    tables.push_back(&baseline_table);
    return tables;
  }();
  return supported;
}

}  // namespace rexit::core::kernels

#include "kernels/table.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace rexit::core::kernels {
namespace {

[[maybe_unused]] Table with_pairs(Table table, const PairTable& pairs) {
  table.pairs = &pairs;
  return table;
}

#if defined(__x86_64__)
// F16C, which not every compiler's __builtin_cpu_supports knows.
bool has_half_conversion() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

const std::vector<const Table*>& tables() {
  static const std::vector<const Table*> supported = [] {
    std::vector<const Table*> tables;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half_conversion();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    static const Table avx512_bf16_table = with_pairs(avx512_table, avx512_pairs);
    if (avx2 && avx512 && __builtin_cpu_supports("avx512bf16")) tables.push_back(&avx512_bf16_table);
    if (avx2 && avx512) tables.push_back(&avx512_table);
    if (avx2) tables.push_back(&avx2_table);
#elif defined(__aarch64__) && defined(__linux__)
    static const Table neon_bf16_table = with_pairs(baseline_table, neon_pairs);
    constexpr unsigned long bf16 = 1UL << 14;  // HWCAP2_BF16, which older headers lack
    if ((getauxval(AT_HWCAP2) & bf16) != 0) tables.push_back(&neon_bf16_table);
#endif
    tables.push_back(&baseline_table);
    return tables;
  }();
  return supported;
}

}  // namespace rexit::core::kernels

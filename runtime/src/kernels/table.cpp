#include "kernels/table.hpp"

#include <cstdlib>
#include <cstring>

#include "base/status.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace rexit::core::kernels {
namespace {

[[maybe_unused]] Table extended(Table table, const PairTable* pairs, const Int8ProductTable* int8) {
  table.pairs = pairs;
  table.int8 = int8;
  return table;
}

#if defined(__x86_64__)
struct Support {
  bool avx2 = false, avx512 = false, vnni = false, bfloat16 = false, amx = false;  // with all that their tables use
};

// Whether the system lets this process use AMX's registers, which a thread's stack and switches must have room for. Linux has to
// be asked first, once for all threads.
bool may_use_tiles([[maybe_unused]] unsigned saved) {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned tiles = 0x60000;
  constexpr long request_permission = 0x1023, tile_data = 18;
  return (saved & tiles) == tiles && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

// By the processor's own word: __builtin_cpu_supports needs support of the compiler's library, which Zig's does not have.
Support detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const auto has = [](unsigned bits, unsigned all) { return (bits & all) == all; };
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !has(c, bit_OSXSAVE | bit_FMA | bit_F16C)) return {};
  unsigned saved = 0, high = 0;  // registers that the operating system saves
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned ymm = 0x06, zmm = 0xe6;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || !has(saved, ymm)) return {};
  const bool avx2 = has(b, bit_AVX2), more = a >= 1;
  const bool avx512 = avx2 && has(saved, zmm) && has(b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
  constexpr unsigned avx512_vnni = 1u << 11, avx512_bf16 = 1u << 5;
  constexpr unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
  const bool vnni = avx512 && has(c, avx512_vnni), tiles = vnni && has(d, amx) && may_use_tiles(saved);
  return {avx2, avx512, vnni, avx512 && more && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && has(a, avx512_bf16), tiles};
}
#endif

bool has_tiles([[maybe_unused]] const Table& table) {
#if defined(__x86_64__)
  return table.int8 == &avx512_amx_int8;
#else
  return false;
#endif
}

const Table& choose_table(const char* name) {
  if (name == nullptr || *name == '\0') return *tables().front();
  const bool baseline = std::strcmp(name, "baseline") == 0;
  const std::size_t widest = baseline ? baseline_table.lanes : std::strcmp(name, "avx2") == 0 ? 8 : 16;
  if (widest == 16 && std::strcmp(name, "avx512") != 0)
    fail(REXIT_INVALID_ARGUMENT, "$REXIT_KERNELS is `", name, "`, expected avx512, avx2 or baseline");
  for (const Table* table : tables())
    if (table->lanes <= widest && !(baseline && table->pairs != nullptr) && !has_tiles(*table)) return *table;
  return baseline_table;
}

}  // namespace

const Table& table() {
  static const Table& chosen = choose_table(std::getenv("REXIT_KERNELS"));
  return chosen;
}

const std::vector<const Table*>& tables() {
  static const std::vector<const Table*> supported = [] {
    std::vector<const Table*> tables;
#if defined(__x86_64__)
    const Support support = detect();
    static const Table wide = extended(avx512_table, nullptr, support.vnni ? &avx512_int8 : nullptr);
    static const Table wide_with_pairs = extended(wide, &avx512_pairs, wide.int8);
    static const Table wide_with_tiles = extended(wide, &avx512_amx_pairs, &avx512_amx_int8);
    if (support.bfloat16 && support.amx) tables.push_back(&wide_with_tiles);
    if (support.bfloat16) tables.push_back(&wide_with_pairs);
    if (support.avx512) tables.push_back(&wide);
    if (support.avx2) tables.push_back(&avx2_table);
#elif defined(__aarch64__) && defined(__linux__)
    static const Table neon_bf16_table = extended(baseline_table, &neon_pairs, nullptr);
    constexpr unsigned long bf16 = 1UL << 14;  // HWCAP2_BF16, which older headers lack
    if ((getauxval(AT_HWCAP2) & bf16) != 0) tables.push_back(&neon_bf16_table);
#endif
    tables.push_back(&baseline_table);
    return tables;
  }();
  return supported;
}

}  // namespace rexit::core::kernels

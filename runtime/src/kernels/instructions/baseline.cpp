// Compiled for every processor of the architecture: SSE2 on x86-64, NEON on aarch64.
#include "kernels/make_table.hpp"

namespace rexit::core::kernels {

#if defined(__aarch64__)
extern const Table baseline_table = make_table<4, 4>();  // 32 registers
#else
extern const Table baseline_table = make_table<4, 2>();
#endif

}  // namespace rexit::core::kernels

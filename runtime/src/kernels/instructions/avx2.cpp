// Compiled for AVX2, FMA and F16C; called only where the processor has them.
#include "kernels/make_table.hpp"

namespace rexit::core::kernels {

extern const Table avx2_table = make_table<8, 2>();

}  // namespace rexit::core::kernels

// Compiled for AVX2, FMA and F16C; called only where the processor has them.
#include "kernels/table_of.hpp"

namespace rexit::core::kernels {

extern const Table avx2_table = table_of<8, 2>();

}  // namespace rexit::core::kernels

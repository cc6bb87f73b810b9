// Compiled for AVX-512; called only where the processor has it.
#include "kernels/table_of.hpp"

namespace rexit::core::kernels {

extern const Table avx512_table = table_of<16, 4>();

}  // namespace rexit::core::kernels

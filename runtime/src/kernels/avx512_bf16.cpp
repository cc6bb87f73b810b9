// Compiled for AVX-512 with bfloat16; called only where the processor has it.
#include "kernels/table_of.hpp"

namespace rexit::core::kernels {

extern const Table avx512_bf16_table = table_of<16, 4>();

}  // namespace rexit::core::kernels

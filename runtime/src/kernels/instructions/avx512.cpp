// Compiled for AVX-512; called only where the processor has it.
#include "kernels/make_table.hpp"

namespace rexit::core::kernels {

extern const Table avx512_table = make_table<16, 4>();

}  // namespace rexit::core::kernels

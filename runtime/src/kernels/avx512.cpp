// Compiled for AVX-512; called where it is there.
#include "kernels/table_of.hpp"

namespace rexit::core::kernels {

extern const Table avx512_table = table_of<16, 4>();

}  // namespace rexit::core::kernels

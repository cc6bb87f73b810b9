// Compiled for AVX2 and FMA; called where they are there.
#include "kernels/table_of.hpp"

namespace rexit::core::kernels {

extern const Table avx2_table = table_of<8, 2>();

}  // namespace rexit::core::kernels

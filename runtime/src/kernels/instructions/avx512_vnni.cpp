// Compiled for AVX-512 with VNNI; called only where the processor has it.
#include "kernels/products/int8_product_block.hpp"

namespace rexit::core::kernels {

extern const Int8ProductTable avx512_int8 = make_int8_table<16>();

}  // namespace rexit::core::kernels

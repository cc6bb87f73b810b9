// Compiled for AVX-512 with bfloat16; called only where the processor has it.
#include "kernels/attention/attention_pairs.hpp"

namespace rexit::core::kernels {

extern const PairTable avx512_pairs = pair_table_of<16, 4>();

}  // namespace rexit::core::kernels

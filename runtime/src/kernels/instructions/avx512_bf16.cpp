// Compiled for AVX-512 with bfloat16; called only where the processor has it.
#include "kernels/attention/attention.hpp"

namespace rexit::core::kernels {

extern const PairTable avx512_pairs = make_pair_table<16, 4>();

}  // namespace rexit::core::kernels

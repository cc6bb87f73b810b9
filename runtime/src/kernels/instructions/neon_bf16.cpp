// Compiled for NEON with bfloat16; called only where the processor has it.
#include "kernels/attention/attention.hpp"

namespace rexit::core::kernels {

extern const PairTable neon_pairs = make_pair_table<4, 4>();

}  // namespace rexit::core::kernels

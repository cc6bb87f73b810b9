// Compiled for NEON with bfloat16; called only where the processor has it.
#include "kernels/table_of.hpp"

namespace rexit::core::kernels {

extern const Table neon_bf16_table = table_of<4, 4>();

}  // namespace rexit::core::kernels

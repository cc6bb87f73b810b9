// The kernels' inner parts, compiled once for each kind of processor from the same source (table_of.hpp).
#pragma once

#include "kernels/parallel.hpp"

namespace rexit::core::kernels {

struct Table {
  std::size_t lanes;             // floats at once
  Threads::Function attend;      // data: a Plan
  Threads::Function quantize;    // data of this and the others: Work
  Threads::Function rms_norm_quantize, swiglu_quantize, scale_add;
};

extern const Table baseline_table;
#if defined(__x86_64__)
extern const Table avx2_table, avx512_table;
#endif

// The widest for this processor.
const Table& table() noexcept;

}  // namespace rexit::core::kernels

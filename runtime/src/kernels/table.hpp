// The kernels' inner parts, compiled once for each kind of processor from the same source (table_of.hpp).
#pragma once

#include <vector>

#include "kernels/parallel.hpp"

namespace rexit::core::kernels {

struct Table {
  std::size_t lanes;       // floats at once
  Threads::Function pack;  // data of this and the next: a Plan
  Threads::Function attend;
  Threads::Function quantize;  // data of this and the others: Work
  Threads::Function rms_norm_quantize, swiglu_quantize, scale_add;
};

extern const Table baseline_table;
#if defined(__x86_64__)
extern const Table avx2_table, avx512_table;
#endif

// Those that run on this processor, the widest first.
const std::vector<const Table*>& tables();
inline const Table& table() { return *tables().front(); }

}  // namespace rexit::core::kernels

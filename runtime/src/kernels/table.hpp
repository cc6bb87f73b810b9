// The kernels' tasks, compiled from the same source (table_of.hpp) for each instruction set.
#pragma once

#include <vector>

#include "kernels/threads.hpp"

namespace rexit::core::kernels {

struct Table {
  std::size_t lanes;                                                                          // floats per vector
  Threads::Function pack, attend;                                                             // data: AttentionWork
  Threads::Function quantize, rms_norm_quantize, swiglu_quantize, quantize_cache, scale_add;  // data: RowWork
};

extern const Table baseline_table;
#if defined(__x86_64__)
extern const Table avx2_table, avx512_table;
#endif

// The tables that this processor can run, widest vectors first.
const std::vector<const Table*>& tables();
inline const Table& table() { return *tables().front(); }

}  // namespace rexit::core::kernels

// What stands around an int8 matrix product, for a whole token at a time: each number comes from memory and goes there once.
//
//   scale[t] = max |x[t]| / 127,   quantized[t] = round(x[t] / scale[t]) + 128
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"

namespace rexit::core::kernels {

// Where quantized rows go: values uint8 [rows, width], scales float32 [rows].
struct Quantized {
  std::uint8_t* values;
  float* scales;
  std::size_t rows, width;
};

// All inputs float32 and dense: [rows, width], a scale for each row, a weight [width].
void quantize_rows(const float* x, const Quantized& out, const Threads& threads, const Table& with = table());
// Of x[t] / sqrt(mean x[t]^2 + epsilon) * weight.
void rms_norm_quantize_rows(const float* x, const float* weight, float epsilon, const Quantized& out, const Threads& threads,
                            const Table& with = table());
// Of silu(gate[t] * scale[t]) * up[t] * scale[t].
void swiglu_quantize_rows(const float* gate, const float* up, const float* scale, const Quantized& out, const Threads& threads,
                          const Table& with = table());
// out[t] = product[t] * scale[t] + residual[t]; out may be either of the two.
void scale_add_rows(const float* product, const float* scale, const float* residual, float* out, std::size_t rows,
                    std::size_t width, const Threads& threads, const Table& with = table());

}  // namespace rexit::core::kernels

// The operators around a matrix product in int8 or bfloat16, a whole row (token) at a time: every number is read and written
// once.
//
//   scale[t] = max |x[t]| / 127,   quantized[t] = round(x[t] / scale[t]) + 128
//
// To bfloat16 numbers are rounded to the nearest, ties to even.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.hpp"

namespace rexit::core::kernels {

// Output of the quantizing operators: values [rows, width], scales [rows].
struct QuantizedRows {
  std::uint8_t* values;
  float* scales;
  std::size_t rows, width;
};

// Output of the rounding operators: bfloat16 [rows, width].
struct RoundedRows {
  std::uint16_t* values;
  std::size_t rows, width;
};

// What is added to rows of a product: float32 [rows, width], or one row for all with step 0, as a bias is.
struct Addend {
  const float* values;
  std::size_t step;  // from a row to the next
};

// All inputs are float32 and dense: [rows, width], scale [rows], weight [width].
// Quantizes x[t].
void quantize_rows(const float* x, const QuantizedRows& out, const Threads& threads, const Table& with = table());
// Quantizes x[t] / sqrt(mean(x[t]^2) + epsilon) * weight.
void rms_norm_quantize_rows(const float* x, const float* weight, float epsilon, const QuantizedRows& out, const Threads& threads,
                            const Table& with = table());
// y[t] = (x[t] + residual[t] - mean) / sqrt(variance + epsilon) * weight + bias; quantizes y[t] * factor. weight, bias and factor
// [width]; residual, factor and y may be null.
struct LayerNorm {
  const float *x, *residual, *weight, *bias, *factor;
  float epsilon;
  float* y;
};
void layer_norm_quantize_rows(const LayerNorm& norm, const QuantizedRows& out, const Threads& threads,
                              const Table& with = table());
// Quantizes activation(x[t]) * factor; factor [width] may be null.
void activate_quantize_rows(Activation activation, const float* x, const float* factor, const QuantizedRows& out,
                            const Threads& threads, const Table& with = table());
// Quantizes activation(gate[t] * scale[t]) * up[t] * scale[t].
void gated_quantize_rows(Activation activation, const float* gate, const float* up, const float* scale, const QuantizedRows& out,
                         const Threads& threads, const Table& with = table());
// out[t] = product[t] * scale[t] + addend[t]. `out` may be `product` or the addend.
void scale_add_rows(const float* product, const float* scale, const Addend& addend, float* out, std::size_t rows,
                    std::size_t width, const Threads& threads, const Table& with = table());
// Rounds x[t].
void round_rows(const float* x, const RoundedRows& out, const Threads& threads, const Table& with = table());
// Rounds x[t] / sqrt(mean(x[t]^2) + epsilon) * weight.
void rms_norm_round_rows(const float* x, const float* weight, float epsilon, const RoundedRows& out, const Threads& threads,
                         const Table& with = table());
// Rounds silu(gate[t]) * up[t].
void swiglu_round_rows(const float* gate, const float* up, const RoundedRows& out, const Threads& threads,
                       const Table& with = table());

}  // namespace rexit::core::kernels

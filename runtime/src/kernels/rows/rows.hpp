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

// All inputs are float32 and dense: [rows, width], scale [rows], weight [width].
// Quantizes x[t].
void quantize_rows(const float* x, const QuantizedRows& out, const Threads& threads, const Table& with = table());
// Quantizes x[t] / sqrt(mean(x[t]^2) + epsilon) * weight.
void rms_norm_quantize_rows(const float* x, const float* weight, float epsilon, const QuantizedRows& out, const Threads& threads,
                            const Table& with = table());
// Quantizes silu(gate[t] * scale[t]) * up[t] * scale[t].
void swiglu_quantize_rows(const float* gate, const float* up, const float* scale, const QuantizedRows& out,
                          const Threads& threads, const Table& with = table());
// Writes x[t] as int8 rows of keys or values (Stored), [rows, width + 1]: round(x[t] / scale_of(e)) with the smallest e such that
// no number exceeds 127. Beyond the largest scale numbers are clamped. A row with a number that is not finite gets the lowest e,
// which reads as NaN.
void quantize_cache(const float* x, std::int8_t* out, std::size_t rows, std::size_t width, const Threads& threads,
                    const Table& with = table());
// out[t] = product[t] * scale[t] + residual[t]. `out` may be `product` or `residual`.
void scale_add_rows(const float* product, const float* scale, const float* residual, float* out, std::size_t rows,
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

// Products of int8: quantized rows times a constant weight, together with what reads them, so that the int32 sums stay in
// registers. Only for instruction sets with Int8ProductTable.
//
//   y[t, n] = scale[t] * column[n] * sum_k (q[t, k] - 128) * w[k, n]
//
// The sums are exact; the result is ONNX Runtime's MatMulIntegerToFloat, multiplied by the row's scale, to the bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rows/rows.hpp"
#include "kernels/table.hpp"

namespace rexit::core::kernels {

// A weight [K, N] in the order in which it is read, [N / 16, K / 4, 16, 4]; its column scales [N]; and the sums' initial values
// [N], -128 * sum_k w[k, n], which subtract the zero point.
struct PackedWeight {
  static constexpr std::size_t columns = 16, depth = 4;

  const std::int8_t* values;
  const float* scales;
  const std::int32_t* offsets;
};

// Values [rows, width], scales [rows]; width is a multiple of PackedWeight::depth.
struct QuantizedInput {
  const std::uint8_t* values;
  const float* scales;
  std::size_t rows, width;
};

// y [rows, columns], plus an addend unless it is null. `out` may be the addend. `columns` is a multiple of PackedWeight::columns.
void multiply_rows(const QuantizedInput& x, const PackedWeight& weight, std::size_t columns, const Addend& addend, float* out,
                   const Threads& threads, const Table& with = table());
// Quantizes activation(y of gate) * y of up, both [rows, columns]; columns is out.width.
void multiply_gated_quantize_rows(Activation activation, const QuantizedInput& x, const PackedWeight& gate,
                                  const PackedWeight& up, const QuantizedRows& out, const Threads& threads,
                                  const Table& with = table());
// Quantizes activation(y + bias) * factor; bias and factor [columns], columns is out.width.
void multiply_activate_quantize_rows(Activation activation, const QuantizedInput& x, const PackedWeight& weight,
                                     const float* bias, const float* factor, const QuantizedRows& out, const Threads& threads,
                                     const Table& with = table());
// As layer_norm_quantize_rows of y + bias in place of norm.x.
void multiply_layer_norm_quantize_rows(const QuantizedInput& x, const PackedWeight& weight, const float* bias,
                                       const LayerNorm& norm, const QuantizedRows& out, const Threads& threads,
                                       const Table& with = table());

}  // namespace rexit::core::kernels

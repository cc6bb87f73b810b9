// The table of kernels for W floats per vector, with V * 6 vectors of sums in registers. Included once per instruction set.
#pragma once

#include <cstddef>
#include <cstring>

#include "kernels/attention/attention_block.hpp"
#include "kernels/products/bfloat16_product_block.hpp"
#include "kernels/rows/row_block.hpp"
#include "kernels/table.hpp"

namespace rexit::core::kernels {
namespace {

// Inner products of one embedding with many. The same vectors whatever the instruction set, so that all add in the same order.
inline void inner_products(const float* x, const float* rows, std::size_t count, std::size_t width, double* products) {
  constexpr std::size_t lanes = 8;
  typedef float Floats __attribute__((vector_size(lanes * sizeof(float))));
  typedef double Doubles __attribute__((vector_size(lanes * sizeof(double))));
  for (std::size_t row = 0; row < count; ++row) {
    const float* y = rows + row * width;
    Doubles sums{};
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      Floats a, b;
      std::memcpy(&a, x + i, sizeof a);
      std::memcpy(&b, y + i, sizeof b);
      sums += __builtin_convertvector(a * b, Doubles);
    }
    for (; i < width; ++i) sums[0] += static_cast<double>(x[i] * y[i]);
    double sum = 0;
    for (std::size_t l = 0; l < lanes; ++l) sum += sums[l];
    products[row] = sum;
  }
}

template <class Kind, int W>
void row_task(void* data, std::size_t i) {
  const RowWork& work = *static_cast<const RowWork*>(data);
  for (std::size_t row = i * task_rows; row < smaller_of(work.rows, (i + 1) * task_rows); ++row) Kind::template row<W>(work, row);
}

template <int W, int V>
constexpr Table make_table() {
  return {W,
          [](void* work, std::size_t i) { pack<W>(*static_cast<const AttentionWork*>(work), i); },
          [](void* work, std::size_t i) { attend_block<W, V>(*static_cast<const AttentionWork*>(work), i); },
          row_task<QuantizeRows, W>,
          row_task<RmsNormQuantizeRows, W>,
          row_task<SwigluQuantizeRows, W>,
          row_task<QuantizeCache, W>,
          row_task<ScaleAddRows, W>,
          row_task<RoundRows, W>,
          row_task<RmsNormRoundRows, W>,
          row_task<SwigluRoundRows, W>,
          [](void* work, std::size_t i) { multiply_panel<W, V>(*static_cast<const PanelWork*>(work), i); },
          inner_products};
}

}  // namespace
}  // namespace rexit::core::kernels

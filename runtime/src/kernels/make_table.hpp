// The table of kernels for W floats per vector, with V * 6 vectors of sums in registers. Included once per instruction set.
#pragma once

#include <cstddef>
#include <cstring>

#include "kernels/attention/attention.hpp"
#include "kernels/products/bfloat16_product_block.hpp"
#include "kernels/rows/row_block.hpp"
#include "kernels/table.hpp"

namespace rexit::core::kernels {
namespace {

REXIT_INLINE double as_double(float number) { return static_cast<double>(number); }
REXIT_INLINE double as_double(std::uint16_t half) { return static_cast<double>(from_half(half)); }

// Inner products of one embedding with R rows of floats or halves, whose sums do not wait for each other. The same vectors
// whatever the instruction set, so that all add in the same order.
template <std::size_t R, class Number>
REXIT_INLINE void inner_products_of(const float* x, const Number* rows, std::size_t width, double* products) {
  constexpr std::size_t lanes = 8;
  using L = Lanes<lanes>;
  typedef double Doubles __attribute__((vector_size(lanes * sizeof(double))));
  Doubles sums[R]{};
  std::size_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    const Doubles exact = __builtin_convertvector(L::load(x + i), Doubles);
#pragma GCC unroll 4
    for (std::size_t row = 0; row < R; ++row)
      sums[row] += exact * __builtin_convertvector(L::load(rows + row * width + i), Doubles);
  }
#pragma GCC unroll 4
  for (std::size_t row = 0; row < R; ++row) {
    double parts[lanes];
    std::memcpy(parts, &sums[row], sizeof parts);
    for (std::size_t j = i; j < width; ++j) parts[0] += as_double(x[j]) * as_double(rows[row * width + j]);
    products[row] = ((parts[0] + parts[4]) + (parts[1] + parts[5])) + ((parts[2] + parts[6]) + (parts[3] + parts[7]));
  }
}

template <class Number>
void inner_products(const float* x, const Number* rows, std::size_t count, std::size_t width, double* products) {
  constexpr std::size_t block = 4;
  std::size_t row = 0;
  for (; row + block <= count; row += block) inner_products_of<block>(x, rows + row * width, width, products + row);
  for (; row < count; ++row) inner_products_of<1>(x, rows + row * width, width, products + row);
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
          row_task<LayerNormRows, W>,
          row_task<ActivateRows, W>,
          row_task<GatedQuantizeRows, W>,
          row_task<ScaleAddRows, W>,
          row_task<RoundRows, W>,
          row_task<RmsNormRoundRows, W>,
          row_task<SwigluRoundRows, W>,
          [](void* work, std::size_t i) { multiply_panel<W, V>(*static_cast<const PanelWork*>(work), i); },
          inner_products<float>,
          inner_products<std::uint16_t>};
}

}  // namespace
}  // namespace rexit::core::kernels

// The table of kernels for W floats per vector, with V * 6 vectors of sums in registers. Included once per instruction set.
#pragma once

#include "kernels/attention/attention_block.hpp"
#include "kernels/products/bfloat16_product_block.hpp"
#include "kernels/rows/inner_products.hpp"
#include "kernels/rows/row_block.hpp"
#include "kernels/table.hpp"

namespace rexit::core::kernels {
namespace {

template <int W, int V>
void attend_task(void* work, std::size_t i) {
  attend_block<W, V>(*static_cast<const AttentionWork*>(work), i);
}

template <int W>
void pack_task(void* work, std::size_t i) {
  pack<W>(*static_cast<const AttentionWork*>(work), i);
}

template <class Kind, int W>
void row_task(void* work, std::size_t i) {
  rows_task<Kind, W>(*static_cast<const RowWork*>(work), i);
}

template <int W, int V>
void multiply_task(void* work, std::size_t i) {
  multiply_panel<W, V>(*static_cast<const PanelWork*>(work), i);
}

template <int W, int V>
constexpr Table make_table() {
  return {W,
          pack_task<W>,
          attend_task<W, V>,
          row_task<QuantizeRows, W>,
          row_task<RmsNormQuantizeRows, W>,
          row_task<SwigluQuantizeRows, W>,
          row_task<QuantizeCache, W>,
          row_task<ScaleAddRows, W>,
          row_task<RoundRows, W>,
          row_task<RmsNormRoundRows, W>,
          row_task<SwigluRoundRows, W>,
          multiply_task<W, V>,
          inner_products};
}

}  // namespace
}  // namespace rexit::core::kernels

#include "kernels/products/int8_products.hpp"

#include <algorithm>

#include "base/checked.hpp"
#include "kernels/products/int8_product_block.hpp"
#include "kernels/products/row_blocks.hpp"

namespace rexit::core::kernels {
namespace {

void run_products(Threads::Function task, Int8ProductWork work, std::size_t panel, std::size_t rows, const Threads& threads) {
  work.block_rows = rows;
  work.row_blocks = ceil_div(work.x.rows, rows);
  threads.run(task, ceil_div(work.columns, panel) * work.row_blocks, &work);
}

// Of run_row_blocks.
struct Int8Rows {
  Int8ProductWork work;
  Threads::Function task;
  std::size_t panel;  // columns of a task

  static void multiply(const void* product, std::size_t begin, std::size_t count, float* out) {
    const auto& [work, task, panel] = *static_cast<const Int8Rows*>(product);
    Int8ProductWork part = work;
    part.x.values += begin * part.x.width;
    part.x.scales += begin;
    part.x.rows = part.block_rows = count;
    part.row_blocks = 1;
    part.out = out;
    for (std::size_t i = 0; i < ceil_div(part.columns, panel); ++i) task(&part, i);
  }
};

std::size_t block_rows(const Table& with) { return std::min(with.int8->rows, most_block_rows); }

}  // namespace

void multiply_rows(const QuantizedInput& x, const PackedWeight& weight, std::size_t columns, const Addend& addend, float* out,
                   const Threads& threads, const Table& with) {
  run_products(with.int8->multiply, {x, weight, {}, addend, out, columns, 0, 0}, int8_columns, with.int8->rows, threads);
}

void multiply_gated_quantize_rows(Activation activation, const QuantizedInput& x, const PackedWeight& gate,
                                  const PackedWeight& up, const QuantizedRows& out, const Threads& threads, const Table& with) {
  if (out.rows == 0 || out.width == 0) return;
  const Threads::Function multiply = with.int8->multiply_gated[static_cast<std::size_t>(activation)];
  constexpr std::size_t panel = int8_columns / 2;
  // Two weights seldom fit into the cache: few rows read each but once.
  if (out.rows >= 4 * most_block_rows) {
    const Int8Rows product{{x, gate, up, {}, nullptr, out.width, 0, 0}, multiply, panel};
    const RowWork rows{nullptr, nullptr, nullptr, 0, out, nullptr, nullptr, out.rows, out.width};
    return run_row_blocks({block_rows(with), Int8Rows::multiply, &product, rows, with.quantize}, threads);
  }
  const Threads::Scratch scratch(threads, product(out.rows, out.width, sizeof(float)));
  auto* gated = reinterpret_cast<float*>(scratch.data());
  run_products(multiply, {x, gate, up, {}, gated, out.width, 0, 0}, panel, with.int8->rows, threads);
  quantize_rows(gated, out, threads, with);
}

void multiply_activate_quantize_rows(Activation activation, const QuantizedInput& x, const PackedWeight& weight,
                                     const float* bias, const float* factor, const QuantizedRows& out, const Threads& threads,
                                     const Table& with) {
  const Int8Rows product{{x, weight, {}, {bias, 0}, nullptr, out.width, 0, 0}, with.int8->multiply, int8_columns};
  RowWork rows{nullptr, nullptr, nullptr, 0, out, nullptr, nullptr, out.rows, out.width};
  rows.activation = activation;
  rows.factor = factor;
  run_row_blocks({block_rows(with), Int8Rows::multiply, &product, rows, with.activate}, threads);
}

void multiply_layer_norm_quantize_rows(const QuantizedInput& x, const PackedWeight& weight, const float* bias,
                                       const LayerNorm& norm, const QuantizedRows& out, const Threads& threads,
                                       const Table& with) {
  const Int8Rows product{{x, weight, {}, {bias, 0}, nullptr, out.width, 0, 0}, with.int8->multiply, int8_columns};
  RowWork rows{nullptr, norm.residual, norm.weight, norm.epsilon, out, norm.y, nullptr, out.rows, out.width};
  rows.bias = norm.bias;
  rows.factor = norm.factor;
  run_row_blocks({block_rows(with), Int8Rows::multiply, &product, rows, with.layer_norm}, threads);
}

}  // namespace rexit::core::kernels

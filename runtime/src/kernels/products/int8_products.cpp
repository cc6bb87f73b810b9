#include "kernels/products/int8_products.hpp"

#include <algorithm>

#include "base/checked.hpp"
#include "kernels/products/int8_product_block.hpp"
#include "kernels/rows/row_block.hpp"

namespace rexit::core::kernels {
namespace {

void run_products(Threads::Function task, Int8ProductWork work, std::size_t panel, std::size_t rows, const Threads& threads) {
  work.block_rows = rows;
  work.row_blocks = ceil_div(work.x.rows, rows);
  threads.run(task, ceil_div(work.columns, panel) * work.row_blocks, &work);
}

// A product and what reads its rows, block by block, so that the floats between them stay in a core's private cache.
struct BlockedWork {
  Int8ProductWork product;
  Threads::Function multiply;
  std::size_t panel;  // columns of a task of `multiply`
  RowWork rows;       // `x` is the product
  Threads::Function finish;
  std::size_t block;  // rows
};

void run_block(void* data, std::size_t i) {
  const BlockedWork& work = *static_cast<const BlockedWork*>(data);
  const std::size_t begin = i * work.block, count = std::min(work.block, work.rows.rows - begin), at = begin * work.rows.width;
  Int8ProductWork product = work.product;
  product.x.values += begin * product.x.width;
  product.x.scales += begin;
  product.x.rows = product.block_rows = count;
  product.row_blocks = 1;
  product.out = block_floats(count * work.rows.width);
  for (std::size_t panel = 0; panel < ceil_div(product.columns, work.panel); ++panel) work.multiply(&product, panel);
  RowWork rows = work.rows;
  rows.x = product.out;
  rows.rows = count;
  rows.quantized.values += at;
  rows.quantized.scales += begin;
  if (rows.other != nullptr) rows.other += at;
  if (rows.out != nullptr) rows.out += at;
  for (std::size_t task = 0; task < ceil_div(count, task_rows); ++task) work.finish(&rows, task);
}

constexpr std::size_t most_block_rows = 64;

void run_blocks(BlockedWork work, const Threads& threads) {
  // Some tasks also for few rows, of whole tiles.
  constexpr std::size_t tasks = 8, step = 16;
  work.product.columns = work.rows.width;
  work.block = std::min(most_block_rows, round_up(std::max<std::size_t>(1, ceil_div(work.rows.rows, tasks)), step));
  threads.run(run_block, ceil_div(work.rows.rows, work.block), &work);
}

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
  if (out.rows >= 4 * most_block_rows)
    return run_blocks({{x, gate, up, {}, nullptr, 0, 0, 0},
                       multiply,
                       panel,
                       {nullptr, nullptr, nullptr, 0, out, nullptr, nullptr, out.rows, out.width},
                       with.quantize,
                       0},
                      threads);
  const Threads::Scratch scratch(threads, product(out.rows, out.width, sizeof(float)));
  auto* gated = reinterpret_cast<float*>(scratch.data());
  run_products(multiply, {x, gate, up, {}, gated, out.width, 0, 0}, panel, with.int8->rows, threads);
  quantize_rows(gated, out, threads, with);
}

void multiply_activate_quantize_rows(Activation activation, const QuantizedInput& x, const PackedWeight& weight,
                                     const float* bias, const float* factor, const QuantizedRows& out, const Threads& threads,
                                     const Table& with) {
  RowWork rows{nullptr, nullptr, nullptr, 0, out, nullptr, nullptr, out.rows, out.width};
  rows.activation = activation;
  rows.factor = factor;
  run_blocks({{x, weight, {}, {bias, 0}, nullptr, 0, 0, 0}, with.int8->multiply, int8_columns, rows, with.activate_quantize, 0},
             threads);
}

void multiply_layer_norm_quantize_rows(const QuantizedInput& x, const PackedWeight& weight, const float* bias,
                                       const LayerNorm& norm, const QuantizedRows& out, const Threads& threads,
                                       const Table& with) {
  RowWork rows{nullptr, norm.residual, norm.weight, norm.epsilon, out, norm.y, nullptr, out.rows, out.width};
  rows.bias = norm.bias;
  rows.factor = norm.factor;
  run_blocks({{x, weight, {}, {bias, 0}, nullptr, 0, 0, 0}, with.int8->multiply, int8_columns, rows, with.layer_norm_quantize, 0},
             threads);
}

}  // namespace rexit::core::kernels

#include "kernels/products/int8_products.hpp"

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

}  // namespace

void multiply_rows(const QuantizedInput& x, const PackedWeight& weight, std::size_t columns, const Addend& addend, float* out,
                   const Threads& threads, const Table& with) {
  run_products(with.int8->multiply, {x, weight, {}, addend, out, columns, 0, 0}, int8_columns, with.int8->rows, threads);
}

void multiply_gated_quantize_rows(Activation activation, const QuantizedInput& x, const PackedWeight& gate,
                                  const PackedWeight& up, const QuantizedRows& out, const Threads& threads, const Table& with) {
  if (out.rows == 0 || out.width == 0) return;
  const Threads::Scratch scratch(threads, product(out.rows, out.width, sizeof(float)));
  auto* gated = reinterpret_cast<float*>(scratch.data());
  run_products(with.int8->multiply_gated[static_cast<std::size_t>(activation)], {x, gate, up, {}, gated, out.width, 0, 0},
               int8_columns / 2, with.int8->rows, threads);
  quantize_rows(gated, out, threads, with);
}

}  // namespace rexit::core::kernels

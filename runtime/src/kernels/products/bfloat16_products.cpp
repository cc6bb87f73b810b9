#include "kernels/products/bfloat16_products.hpp"

#include "kernels/products/bfloat16_product_block.hpp"
#include "kernels/products/row_blocks.hpp"

namespace rexit::core::kernels {
namespace {

Threads::Function task_of(const Table& with) { return with.pairs != nullptr ? with.pairs->multiply : with.multiply; }

// Of run_row_blocks.
struct PanelRows {
  const PanelProduct& product;
  Threads::Function task;

  static void multiply(const void* of, std::size_t begin, std::size_t count, float* out) {
    const auto& [product, task] = *static_cast<const PanelRows*>(of);
    PanelProduct part = product;
    part.x += begin * part.depth;
    part.rows = count;
    part.out = out;
    if (part.addend.values != nullptr) part.addend.values += begin * part.addend.step;
    PanelWork work{part, ceil_div(count, panel_rows)};
    for (std::size_t i = 0; i < part.panels * work.blocks; ++i) task(&work, i);
  }
};

}  // namespace

void multiply_panels(const PanelProduct& product, const Threads& threads, const Table& with) {
  PanelWork work{product, ceil_div(product.rows, panel_rows)};
  threads.run(task_of(with), product.panels * work.blocks, &work);
}

void multiply_activate_round_rows(Activation activation, const PanelProduct& product, const RoundedRows& out,
                                  const Threads& threads, const Table& with) {
  const PanelRows of{product, task_of(with)};
  RowWork rows{nullptr, nullptr, nullptr, 0, {}, nullptr, out.values, out.rows, out.width};
  rows.activation = activation;
  run_row_blocks({most_block_rows, PanelRows::multiply, &of, rows, with.activate}, threads);
}

void multiply_layer_norm_round_rows(const PanelProduct& product, const LayerNorm& norm, const RoundedRows& out,
                                    const Threads& threads, const Table& with) {
  const PanelRows of{product, task_of(with)};
  RowWork rows{nullptr, norm.residual, norm.weight, norm.epsilon, {}, norm.y, out.values, out.rows, out.width};
  rows.bias = norm.bias;
  run_row_blocks({most_block_rows, PanelRows::multiply, &of, rows, with.layer_norm}, threads);
}

}  // namespace rexit::core::kernels

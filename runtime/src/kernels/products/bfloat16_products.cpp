#include "kernels/products/bfloat16_products.hpp"

#include "kernels/products/bfloat16_product_block.hpp"

namespace rexit::core::kernels {

void multiply_panels(const PanelProduct& product, const Threads& threads, const Table& with) {
  PanelWork work{product, ceil_div(product.rows, panel_rows)};
  threads.run(with.pairs != nullptr ? with.pairs->multiply : with.multiply, product.panels * work.blocks, &work);
}

}  // namespace rexit::core::kernels

#include "kernels/product.hpp"

#include "kernels/product_block.hpp"

namespace rexit::core::kernels {

void multiply_panels(const PanelProduct& product, const Threads& threads, const Table& with) {
  ProductWork work{product, (product.rows + product_rows - 1) / product_rows};
  threads.run(with.pairs != nullptr ? with.pairs->multiply : with.multiply, product.panels * work.blocks, &work);
}

}  // namespace rexit::core::kernels

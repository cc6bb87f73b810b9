#include "kernels/products/row_blocks.hpp"

#include <algorithm>

namespace rexit::core::kernels {
namespace {

struct BlocksWork {
  const RowBlocks& blocks;
  std::size_t size;
};

void run_block(void* data, std::size_t i) {
  const auto& [blocks, size] = *static_cast<const BlocksWork*>(data);
  RowWork rows = blocks.rows;
  const std::size_t begin = i * size, at = begin * rows.width;
  rows.rows = std::min(size, rows.rows - begin);
  float* product = block_floats(rows.rows * rows.width);
  blocks.multiply(blocks.product, begin, rows.rows, product);
  rows.x = product;
  if (rows.other != nullptr) rows.other += at;
  if (rows.out != nullptr) rows.out += at;
  if (rows.rounded != nullptr) {
    rows.rounded += at;
  } else {
    rows.quantized.values += at;
    rows.quantized.scales += begin;
  }
  for (std::size_t task = 0; task < ceil_div(rows.rows, task_rows); ++task) blocks.finish(&rows, task);
}

}  // namespace

void run_row_blocks(const RowBlocks& blocks, const Threads& threads) {
  // Some tasks also for few rows, of whole tiles.
  constexpr std::size_t tasks = 8, tile = 16;
  const std::size_t rows = blocks.rows.rows, least = std::max<std::size_t>(1, ceil_div(rows, tasks));
  BlocksWork work{blocks, std::min(blocks.block_rows, round_up(least, tile))};
  threads.run(run_block, ceil_div(rows, work.size), &work);
}

}  // namespace rexit::core::kernels

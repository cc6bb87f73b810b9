// A product and what reads its rows, block by block, so that the floats between them stay in a core's private cache.
#pragma once

#include "kernels/rows/row_block.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

constexpr std::size_t most_block_rows = 64;

struct RowBlocks {
  std::size_t block_rows;  // of a block, at most
  // Writes rows [begin, begin + count) of the product to `out` [count, width].
  void (*multiply)(const void* product, std::size_t begin, std::size_t count, float* out);
  const void* product;
  RowWork rows;              // `x` is the product
  Threads::Function finish;  // data: RowWork
};

void run_row_blocks(const RowBlocks& blocks, const Threads& threads);

}  // namespace rexit::core::kernels

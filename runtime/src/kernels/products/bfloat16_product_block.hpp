// The product of a block of rows with a panel of columns (bfloat16_products.hpp), for any vector width W.
//
// A panel is read once for a block, row by row, and stays in a core's private cache for the block's rows.
#pragma once

#include "kernels/multiply.hpp"
#include "kernels/products/bfloat16_products.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

constexpr std::size_t panel_rows = 96;

struct PanelWork {
  const PanelProduct& product;
  std::size_t blocks;  // blocks of rows
};

// Where a task's rows and columns lie.
struct PanelPart {
  const PanelProduct& product;
  std::size_t first, count;  // rows
  std::size_t width;         // of `out`
  const std::uint16_t* weight;
  float* out;

  REXIT_INLINE PanelPart(const PanelWork& work, std::size_t task)
      : product(work.product),
        first(task % work.blocks * panel_rows),
        count(smaller_of(panel_rows, product.rows - first)),
        width(product.panels * product.panel),
        weight(product.weight + task / work.blocks * product.panel * product.depth),
        out(product.out + first * width + task / work.blocks * product.panel) {}

  REXIT_INLINE const std::uint16_t* row(std::size_t r) const { return product.x + (first + r) * product.depth; }

  // The first column of the product.
  REXIT_INLINE std::size_t column() const { return static_cast<std::size_t>(out - product.out) % width; }

  // Whether `out` has numbers to add to.
  REXIT_INLINE bool start() const {
    const auto [values, step] = product.addend;
    if (values != nullptr && values != product.out)
      for (std::size_t r = 0; r < count; ++r)
        std::memcpy(out + r * width, values + (first + r) * step + column(), product.panel * sizeof(float));
    return values != nullptr;
  }
};

// With instructions for pairs of bfloat16.
template <int W, int V>
REXIT_INLINE void multiply_panel_pairs(const PanelWork& work, std::size_t task) {
  const PanelPart part(work, task);
  const float** rows = scratch_rows(part.count);
  for (std::size_t r = 0; r < part.count; ++r) rows[r] = reinterpret_cast<const float*>(part.row(r));
  multiply<W, V, Bfloat16Pairs<W>>(rows, part.count, reinterpret_cast<const float*>(part.weight), part.product.panel,
                                   part.product.depth / 2, part.product.panel, part.out, part.width, part.start());
}

// With floats, which rows and panel are converted to, some of the depth at a time.
template <int W, int V>
REXIT_INLINE void multiply_panel(const PanelWork& work, std::size_t task) {
  constexpr std::size_t max_depth = 256;
  const PanelPart part(work, task);
  const std::size_t panel = part.product.panel;
  float* weight = scratch_floats(max_depth * (panel + part.count));
  float* x = weight + max_depth * panel;
  const float** rows = scratch_rows(part.count);
  for (std::size_t r = 0; r < part.count; ++r) rows[r] = x + r * max_depth;
  bool add = part.start();
  for (std::size_t begin = 0; begin < part.product.depth; begin += max_depth) {
    const std::size_t depth = smaller_of(max_depth, part.product.depth - begin);
    for (std::size_t i = 0; i < depth; i += 2) {
      const std::uint16_t* pairs = part.weight + (begin + i) * panel;
      for (std::size_t c = 0; c < panel; ++c) {
        weight[i * panel + c] = from_bfloat16(pairs[2 * c]);
        weight[(i + 1) * panel + c] = from_bfloat16(pairs[2 * c + 1]);
      }
    }
    for (std::size_t r = 0; r < part.count; ++r)
      for (std::size_t i = 0; i < depth; ++i) x[r * max_depth + i] = from_bfloat16(part.row(r)[begin + i]);
    multiply<W, V>(rows, part.count, weight, panel, depth, panel, part.out, part.width, add);
    add = true;
  }
}

}  // namespace rexit::core::kernels

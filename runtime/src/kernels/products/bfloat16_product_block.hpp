// The product of a block of rows with a panel of columns (bfloat16_products.hpp), for any vector width W.
//
// A panel is read once for a block, row by row, and stays in a core's private cache for the block's rows.
#pragma once

#include "kernels/lanes.hpp"
#include "kernels/products/bfloat16_products.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

constexpr std::size_t panel_rows = 96;

struct PanelWork {
  const PanelProduct& of;
  std::size_t blocks;  // of rows
};

// Where a task's rows and columns lie.
struct PanelPart {
  const PanelProduct& of;
  std::size_t first, count, width;  // rows, and all columns
  const std::uint16_t* weight;
  float* out;

  REXIT_INLINE PanelPart(const PanelWork& work, std::size_t task)
      : of(work.of),
        first(task % work.blocks * panel_rows),
        count(smaller_of(panel_rows, of.rows - first)),
        width(of.panels * of.panel),
        weight(of.weight + task / work.blocks * of.panel * of.depth),
        out(of.out + first * width + task / work.blocks * of.panel) {}

  REXIT_INLINE const std::uint16_t* row(std::size_t r) const { return of.x + (first + r) * of.depth; }

  // Whether `out` has numbers to add to.
  REXIT_INLINE bool start() const {
    if (of.residual != nullptr && of.residual != of.out)
      for (std::size_t r = 0; r < count; ++r)
        std::memcpy(out + r * width, of.residual + (out - of.out) + r * width, of.panel * sizeof(float));
    return of.residual != nullptr;
  }
};

// With instructions for pairs of bfloat16.
template <int W, int V>
REXIT_INLINE void multiply_panel_pairs(const PanelWork& work, std::size_t task) {
  const PanelPart part(work, task);
  const float** rows = scratch_rows(part.count);
  for (std::size_t r = 0; r < part.count; ++r) rows[r] = reinterpret_cast<const float*>(part.row(r));
  multiply<W, V, Bfloat16Pairs<W>>(rows, part.count, reinterpret_cast<const float*>(part.weight), part.of.panel,
                                   part.of.depth / 2, part.of.panel, part.out, part.width, part.start());
}

// With floats, which rows and panel are converted to, some of the depth at a time.
template <int W, int V>
REXIT_INLINE void multiply_panel(const PanelWork& work, std::size_t task) {
  constexpr std::size_t most = 256;
  const PanelPart part(work, task);
  const std::size_t panel = part.of.panel;
  float* weight = scratch_floats(most * (panel + part.count));
  float* x = weight + most * panel;
  const float** rows = scratch_rows(part.count);
  for (std::size_t r = 0; r < part.count; ++r) rows[r] = x + r * most;
  bool add = part.start();
  for (std::size_t begin = 0; begin < part.of.depth; begin += most) {
    const std::size_t depth = smaller_of(most, part.of.depth - begin);
    for (std::size_t i = 0; i < depth; i += 2) {
      const std::uint16_t* pairs = part.weight + (begin + i) * panel;
      for (std::size_t c = 0; c < panel; ++c) {
        weight[i * panel + c] = from_bfloat16(pairs[2 * c]);
        weight[(i + 1) * panel + c] = from_bfloat16(pairs[2 * c + 1]);
      }
    }
    for (std::size_t r = 0; r < part.count; ++r)
      for (std::size_t i = 0; i < depth; ++i) x[r * most + i] = from_bfloat16(part.row(r)[begin + i]);
    multiply<W, V>(rows, part.count, weight, panel, depth, panel, part.out, part.width, add);
    add = true;
  }
}

}  // namespace rexit::core::kernels

// Products of rows with a constant matrix in bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rows/rows.hpp"
#include "kernels/table.hpp"

namespace rexit::core::kernels {

// The columns of the widest vector: kernels write whole vectors.
constexpr std::size_t panel_step = 16;

// out = x * weight, or addend + x * weight, with columns = panels * panel.
struct PanelProduct {
  const std::uint16_t* x;       // bfloat16 [rows, depth]
  const std::uint16_t* weight;  // bfloat16 [panels, depth / 2, panel, 2]: rows 2i and 2i + 1 of a panel's columns, pair by pair
  Addend addend;                // its values may be null, or `out`
  float* out;                   // [rows, columns]
  std::size_t rows;
  std::size_t depth;  // even, not 0
  std::size_t panels;
  std::size_t panel;  // columns of a panel, a multiple of `panel_step`
};

// Products are exact, sums float32. Where the processor has instructions for pairs of bfloat16, numbers below 2^-126 count as 0.
void multiply_panels(const PanelProduct& product, const Threads& threads, const Table& with = table());
// Rounds activation(product).
void multiply_activate_round_rows(Activation activation, const PanelProduct& product, const RoundedRows& out,
                                  const Threads& threads, const Table& with = table());
// Rounds norm.y, as of layer_norm_quantize_rows, of the product in place of norm.x.
void multiply_layer_norm_round_rows(const PanelProduct& product, const LayerNorm& norm, const RoundedRows& out,
                                    const Threads& threads, const Table& with = table());

}  // namespace rexit::core::kernels

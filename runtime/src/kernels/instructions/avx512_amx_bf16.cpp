// Compiled for AVX-512 with bfloat16 and AMX; called only where the processor has both and the system lends the tiles' registers.
#include "kernels/attention/attention.hpp"
#include "kernels/instructions/tiles.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t tile_pairs = 16;  // of depth

struct Bfloat16Tiles {
  template <int C>
  static REXIT_INLINE void upper() {
    _tile_dpbf16ps(0, 4, 6);
    if (C == 2) _tile_dpbf16ps(1, 4, 7);
  }
  template <int C>
  static REXIT_INLINE void lower() {
    _tile_dpbf16ps(2, 5, 6);
    if (C == 2) _tile_dpbf16ps(3, 5, 7);
  }
};

// Columns of an operand on the right, whose rows of pairs are `stride` floats apart, and the rows that fill no tile, with zeros.
struct Columns {
  TileColumns whole, last;
  std::size_t steps;
  bool has_last;
};

// left * right. `left`: rows of pairs, `step` floats apart.
template <int R, int C>
REXIT_INLINE void multiply_tiles(const float* left, std::size_t step, const Columns& right, float* out, std::size_t out_stride) {
  const std::size_t row_bytes = step * sizeof(float), out_bytes = out_stride * sizeof(float);
  sum_tiles<Bfloat16Tiles, R, C>(left, row_bytes, right.whole, right.steps, out, out_bytes, nullptr, 0);
  if (right.has_last)
    sum_tiles<Bfloat16Tiles, R, C>(left + right.steps * tile_pairs, row_bytes, right.last, 1, out, out_bytes, out, out_bytes);
}

// Rows are multiplied 16 at a time, also spare ones behind the last.
template <int C>
REXIT_INLINE void multiply_columns(const float* left, std::size_t step, std::size_t rows, const Columns& right, float* out,
                                   std::size_t out_stride) {
  std::size_t row = 0;
  for (; row + tile_rows < rows; row += 2 * tile_rows)
    multiply_tiles<2, C>(left + row * step, step, right, out + row * out_stride, out_stride);
  if (row < rows) multiply_tiles<1, C>(left + row * step, step, right, out + row * out_stride, out_stride);
}

// An encoder's attention, where no part of a sum lies in a prefix: the sums of values begin at a candidate's first token, so a
// token's result does not depend on what lies around its candidate.
struct TileOperands : PairOperands<16> {
  static constexpr std::size_t spare_rows = tile_rows - 1;

  // As VectorProducts::multiply(), but replaces c; without depth leaves it. n is a multiple of 16. a's pairs from k on, up to a
  // multiple of 16, are 0.
  template <int V>
  static REXIT_INLINE void multiply(const float* const* a, std::size_t a_step, std::size_t rows, const float* b,
                                    std::size_t b_stride, std::size_t k, std::size_t n, float* c, std::size_t c_stride, bool) {
    if (k == 0) return;
    constexpr std::size_t both = 2 * tile_columns;
    const std::size_t whole = k / tile_pairs * tile_pairs, row_bytes = b_stride * sizeof(float);
    alignas(64) float last[tile_pairs][both];
    for (std::size_t column = 0; column < n; column += both) {
      const bool narrow = column + tile_columns == n;
      const float* from = b + column;
      for (std::size_t i = 0; whole != k && i < tile_pairs; ++i)
        for (std::size_t part = 0; part < (narrow ? tile_columns : both); part += tile_columns)
          L::store(last[i] + part, whole + i < k ? L::load(from + (whole + i) * b_stride + part) : L::Floats{});
      const Columns right{{{from, from + tile_columns}, row_bytes, tile_pairs * row_bytes},
                          {{last[0], last[0] + tile_columns}, both * sizeof(float), 0},
                          whole / tile_pairs,
                          whole != k};
      if (narrow)
        multiply_columns<1>(a[0], a_step, rows, right, c + column, c_stride);
      else
        multiply_columns<2>(a[0], a_step, rows, right, c + column, c_stride);
    }
  }
};

void attend(void* data, std::size_t i) {
  const AttentionWork& work = *static_cast<const AttentionWork*>(data);
  const SlateAttention& attention = work.attention;
  if (attention.window == 0 || attention.prefix != 0 || attention.dim % (2 * tile_pairs) != 0)
    return attend_tokens<16, 4, PairOperands<16>>(work, i);
  const Tiles tiles;
  Tiles::shape(tile_rows);
  attend_tokens<16, 4, TileOperands>(work, i);
}

// R * tile_rows rows of a panel's product from `row` on, or as many as tile 4 has.
template <int R>
void multiply_panel_rows(const PanelPart& part, std::size_t row) {
  const PanelProduct& product = part.product;
  const std::size_t row_bytes = product.panel * sizeof(float), begin = part.column();
  const Addend& addend = product.addend;
  for (std::size_t column = 0; column < product.panel; column += 2 * tile_columns) {
    const float* from = reinterpret_cast<const float*>(part.weight) + column;
    const TileColumns right{{from, from + tile_columns}, row_bytes, tile_pairs * row_bytes};
    const float* first = addend.values == nullptr ? nullptr : addend.values + (part.first + row) * addend.step + begin + column;
    const auto sum = column + tile_columns == product.panel ? sum_tiles<Bfloat16Tiles, R, 1> : sum_tiles<Bfloat16Tiles, R, 2>;
    sum(part.row(row), product.depth * sizeof(std::uint16_t), right, product.depth / (2 * tile_pairs),
        part.out + row * part.width + column, part.width * sizeof(float), first, addend.step * sizeof(float));
  }
}

// As multiply_panel_pairs, by tiles if a row fills them.
void multiply_panel_by_tiles(void* data, std::size_t i) {
  const PanelWork& work = *static_cast<const PanelWork*>(data);
  if (work.product.depth % (2 * tile_pairs) != 0) return multiply_panel_pairs<16, 4>(work, i);
  const PanelPart part(work, i);
  const Tiles tiles;
  Tiles::shape(tile_rows);
  std::size_t row = 0;
  for (; row + 2 * tile_rows <= part.count; row += 2 * tile_rows) multiply_panel_rows<2>(part, row);
  if (row + tile_rows <= part.count) {
    multiply_panel_rows<1>(part, row);
    row += tile_rows;
  }
  if (row < part.count) {
    Tiles::shape(part.count - row);
    multiply_panel_rows<1>(part, row);
  }
}

}  // namespace

extern const PairTable avx512_amx_pairs{
    [](void* work, std::size_t i) { pack_pairs<16>(*static_cast<const AttentionWork*>(work), i); }, attend,
    multiply_panel_by_tiles};

}  // namespace rexit::core::kernels

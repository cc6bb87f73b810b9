// Compiled for AVX-512 with VNNI and AMX; called only where the processor has both and the system lends the tiles' registers.
#include <immintrin.h>

#include "kernels/products/int8_product_block.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t tile_rows = 16, tile_columns = PackedWeight::columns, tile_depth = 64;
constexpr std::size_t block_rows = 128;         // of a task, which shapes its tiles anew: 150 ns
constexpr std::size_t pair = 2 * tile_columns;  // columns of sums at a time: of one weight, or half of each of two

// Tiles 0 to 3 have sums, two times two; 4 and 5 rows of the input; 6 and 7 a weight's columns, in PackedWeight's order.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, begin = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Gives the thread its tiles, and on destruction those of whoever had them before, without what was in them: no kernel is
// interrupted by another.
class Tiles {
 public:
  Tiles() noexcept { __asm__ volatile("sttilecfg %0" : "=m"(before_)); }
  ~Tiles() {
    if (before_.palette != 0)
      shape(before_);
    else
      __asm__ volatile("tilerelease");
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  static void shape(const TileShapes& shapes) noexcept { __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); }
  // Tiles 0, 1 and 4 have fewer rows.
  static void shape(std::size_t rows) noexcept {
    TileShapes shapes;
    for (const int tile : {0, 1, 4}) shapes.rows[tile] = static_cast<std::uint8_t>(rows);
    shape(shapes);
  }

 private:
  TileShapes before_;
};

// sums [R * tile_rows, pair] of rows from x on and two blocks of columns. R: 2, or 1 with as many rows as tile 4 has.
template <int R>
REXIT_INLINE void sum_tiles(const std::uint8_t* x, std::size_t width, const std::int8_t* const (&weights)[2],
                            std::int32_t* sums) {
  constexpr std::size_t row_bytes = pair * sizeof *sums;
  _tile_zero(0);
  _tile_zero(1);
  if (R == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::size_t k = 0; k < width; k += tile_depth) {
    _tile_loadd(6, weights[0] + k * tile_columns, 64);
    _tile_loadd(7, weights[1] + k * tile_columns, 64);
    _tile_loadd(4, x + k, width);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    if (R == 2) {
      _tile_loadd(5, x + tile_rows * width + k, width);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, row_bytes);
  _tile_stored(1, sums + tile_columns, row_bytes);
  if (R == 2) {
    _tile_stored(2, sums + tile_rows * pair, row_bytes);
    _tile_stored(3, sums + tile_rows * pair + tile_columns, row_bytes);
  }
}

// Rows [row, row + rows), up to R * tile_rows, and the block of columns of each of Kind's weights that begins at `column`.
template <class Kind, int R>
REXIT_INLINE void multiply_tiles(const Int8ProductWork& work, std::size_t row, std::size_t rows, std::size_t column) {
  constexpr std::size_t blocks = 2 / Kind::weights;
  using Ints = Lanes<16>::Ints;
  const std::int8_t* weights[2];
  Ints offsets[2];
#pragma GCC unroll 2
  for (std::size_t v = 0; v < 2; ++v) {
    const PackedWeight& weight = Kind::weight(work, v / blocks);
    weights[v] = column_values(weight, work.x.width, column + v % blocks * tile_columns);
    offsets[v] = column_offsets<16>(weight, column + v % blocks * tile_columns);
  }
  alignas(64) std::int32_t sums[R * tile_rows * pair];
  sum_tiles<R>(work.x.values + row * work.x.width, work.x.width, weights, sums);
  for (std::size_t r = 0; r < rows; ++r) {
    Ints both[1][2];
    std::memcpy(both, sums + r * pair, sizeof both);
    both[0][0] += offsets[0];
    both[0][1] += offsets[1];
    Kind::template finish<16, 1>(work, row + r, column, both);
  }
}

template <class Kind>
void multiply_block(const Int8ProductWork work, std::size_t i) {
  const Int8Block block(work, i, int8_columns / Kind::weights);
  constexpr std::size_t step = pair / Kind::weights;
  const std::size_t last = block.column + (block.last - block.column) / step * step, rest = (block.end - block.begin) % tile_rows;
  const Tiles tiles;
  Tiles::shape(tile_rows);
  for (std::size_t column = block.column; column < last; column += step) {
    std::size_t row = block.begin;
    for (; row + 2 * tile_rows <= block.end; row += 2 * tile_rows) multiply_tiles<Kind, 2>(work, row, 2 * tile_rows, column);
    if (row + tile_rows <= block.end) multiply_tiles<Kind, 1>(work, row, tile_rows, column);
  }
  if (rest != 0) {
    Tiles::shape(rest);
    for (std::size_t column = block.column; column < last; column += step)
      multiply_tiles<Kind, 1>(work, block.end - rest, rest, column);
  }
  if (last < block.last) multiply_rows_of<Kind, 16, 1>(work, block.begin, block.end, last);
}

struct Amx {
  template <class Kind>
  static void run(void* data, std::size_t i) {
    const Int8ProductWork& work = *static_cast<const Int8ProductWork*>(data);
    if (work.x.width % tile_depth == 0)
      multiply_block<Kind>(work, i);
    else
      int8_task<Kind, 16>(work, i);
  }
};

}  // namespace

extern const Int8ProductTable avx512_amx_int8 = make_int8_table<Amx>(block_rows);

}  // namespace rexit::core::kernels

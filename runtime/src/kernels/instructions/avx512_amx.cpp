// Compiled for AVX-512 with VNNI and AMX; called only where the processor has both and the system lends the tiles' registers.
#include "kernels/instructions/tiles.hpp"
#include "kernels/products/int8_product_block.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t tile_depth = tile_bytes;
constexpr std::size_t block_rows = 128;         // of a task, which shapes its tiles anew: 150 ns
constexpr std::size_t pair = 2 * tile_columns;  // columns of sums at a time: of one weight, or half of each of two
static_assert(tile_columns == PackedWeight::columns);

struct Int8Tiles {
  template <int C>
  static REXIT_INLINE void upper() {
    _tile_dpbusd(0, 4, 6);
    if (C == 2) _tile_dpbusd(1, 4, 7);
  }
  template <int C>
  static REXIT_INLINE void lower() {
    _tile_dpbusd(2, 5, 6);
    if (C == 2) _tile_dpbusd(3, 5, 7);
  }
};

// Rows [row, row + rows), up to R * tile_rows, and the block of columns of each of Kind's weights that begins at `column`.
template <class Kind, int R>
REXIT_INLINE void multiply_tiles(const Int8ProductWork& work, std::size_t row, std::size_t rows, std::size_t column) {
  constexpr std::size_t blocks = 2 / Kind::weights;
  using Ints = Lanes<16>::Ints;
  TileColumns columns{{}, tile_bytes, tile_depth * tile_columns};
  Ints offsets[2];
#pragma GCC unroll 2
  for (std::size_t v = 0; v < 2; ++v) {
    const PackedWeight& weight = Kind::weight(work, v / blocks);
    columns.blocks[v] = column_values(weight, work.x.width, column + v % blocks * tile_columns);
    offsets[v] = column_offsets<16>(weight, column + v % blocks * tile_columns);
  }
  alignas(64) std::int32_t sums[R * tile_rows * pair];
  sum_tiles<Int8Tiles, R, 2>(work.x.values + row * work.x.width, work.x.width, columns, work.x.width / tile_depth, sums,
                             pair * sizeof *sums, nullptr, 0);
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

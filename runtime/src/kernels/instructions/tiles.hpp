// AMX's registers, tiles of 16 rows of 64 bytes, and the product of two times two of them. For files compiled for AMX.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/lanes.hpp"

namespace rexit::core::kernels {
namespace {

constexpr std::size_t tile_rows = 16, tile_bytes = 64, tile_columns = 16;  // columns of sums

// Tiles 0 to 3 have sums, two times two; 4 and 5 rows of the left operand; 6 and 7 columns of the right one.
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

// Columns of the right operand, up to twice tile_columns: in a tile's order, a step of 64 bytes of depth behind the other.
struct TileColumns {
  const void* blocks[2];
  std::size_t row_bytes, step_bytes;
};

// sums [R * tile_rows, C * tile_columns] = first + left * right, over `steps` of 64 bytes; `first` may be null, or `sums`.
// *_bytes: from a row to the next, 0 for one that is every row. With R = 1 as many rows as tile 4 has.
template <class Product, int R, int C>
REXIT_INLINE void sum_tiles(const void* left, std::size_t row_bytes, const TileColumns& right, std::size_t steps, void* sums,
                            std::size_t sums_row_bytes, const void* first, std::size_t first_row_bytes) {
  const auto at = [](const void* from, std::size_t bytes)
                      __attribute__((always_inline)) { return static_cast<const std::byte*>(from) + bytes; };
  auto* const to = static_cast<std::byte*>(sums);
  auto* const lower = to + tile_rows * sums_row_bytes;
  if (first != nullptr) {
    _tile_loadd(0, first, first_row_bytes);
    if (C == 2) _tile_loadd(1, at(first, tile_bytes), first_row_bytes);
    if (R == 2) _tile_loadd(2, at(first, tile_rows * first_row_bytes), first_row_bytes);
    if (R == 2 && C == 2) _tile_loadd(3, at(first, tile_rows * first_row_bytes + tile_bytes), first_row_bytes);
  } else {
    _tile_zero(0);
    if (C == 2) _tile_zero(1);
    if (R == 2) _tile_zero(2);
    if (R == 2 && C == 2) _tile_zero(3);
  }
  for (std::size_t step = 0; step < steps; ++step) {
    _tile_loadd(6, at(right.blocks[0], step * right.step_bytes), right.row_bytes);
    if (C == 2) _tile_loadd(7, at(right.blocks[1], step * right.step_bytes), right.row_bytes);
    _tile_loadd(4, at(left, step * tile_bytes), row_bytes);
    Product::template upper<C>();
    if (R == 2) {
      _tile_loadd(5, at(left, step * tile_bytes + tile_rows * row_bytes), row_bytes);
      Product::template lower<C>();
    }
  }
  _tile_stored(0, to, sums_row_bytes);
  if (C == 2) _tile_stored(1, to + tile_bytes, sums_row_bytes);
  if (R == 2) _tile_stored(2, lower, sums_row_bytes);
  if (R == 2 && C == 2) _tile_stored(3, lower + tile_bytes, sums_row_bytes);
}

}  // namespace
}  // namespace rexit::core::kernels

// The tasks of int8_products.hpp for vectors of W sums. A task multiplies a block of rows by a panel of columns.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/lanes.hpp"
#include "kernels/products/int8_products.hpp"
#include "kernels/threads.hpp"

namespace rexit::core::kernels {

// `up` is unused unless the product is gated.
struct Int8ProductWork {
  QuantizedInput x;
  PackedWeight weight, up;
  Addend addend;  // may be null
  float* out;
  std::size_t columns;
  std::size_t row_blocks;  // tasks per panel
};

// A panel of a weight is read from the core's private cache by all but the first rows of a block.
constexpr std::size_t int8_rows = 48, int8_columns = 64, int8_gated_columns = int8_columns / 2;

// What differs between instruction sets.
template <int W>
struct Dot;

#if defined(__AVX512VNNI__)
template <>
struct Dot<16> {
  using Floats = Lanes<16>::Floats;
  using Ints = Lanes<16>::Ints;

  // Adds four products of a uint8 and an int8 to each sum. Not by the intrinsic: GCC 12 then stores every sum to memory after
  // every step, which takes twice as long.
  static REXIT_INLINE Ints add(Ints sum, Ints x, Ints weight) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
    return sum;
  }
  // Rounded once, as ScaleAddRows does.
  static REXIT_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
};
#endif

// sums[r][v] += the products of row r and the W columns that begin at weights[v]. Meanwhile fetches what lies `ahead` bytes
// behind them, the weights of the next columns: else the first rows of a block wait for memory. Behind a weight's end that does
// nothing.
template <int W, int R, int V>
REXIT_INLINE void add_products(const std::uint8_t* x, std::size_t width, const std::int8_t* const (&weights)[V],
                               std::size_t ahead, typename Lanes<W>::Ints (&sums)[R][V]) {
  using Ints = typename Lanes<W>::Ints;
  for (std::size_t k = 0; k < width; k += PackedWeight::depth) {
    Ints columns[V];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < V; ++v) {
      const std::int8_t* from = weights[v] + k * PackedWeight::columns;
      std::memcpy(&columns[v], from, sizeof columns[v]);
      __builtin_prefetch(from + ahead, 0, 2);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      std::int32_t four;
      std::memcpy(&four, x + r * width + k, sizeof four);
      const Ints factors = Ints{} + four;
#pragma GCC unroll 4
      for (std::size_t v = 0; v < V; ++v) sums[r][v] = Dot<W>::add(sums[r][v], factors, columns[v]);
    }
  }
}

REXIT_INLINE const std::int8_t* column_values(const PackedWeight& weight, std::size_t width, std::size_t column) {
  const std::size_t lane = column % PackedWeight::columns;
  return weight.values + (column - lane) * width + lane * PackedWeight::depth;
}

template <int W>
REXIT_INLINE typename Lanes<W>::Ints column_offsets(const PackedWeight& weight, std::size_t column) {
  typename Lanes<W>::Ints offsets;
  std::memcpy(&offsets, weight.offsets + column, sizeof offsets);
  return offsets;
}

template <int W>
REXIT_INLINE typename Lanes<W>::Floats floats(typename Lanes<W>::Ints sums) {
  return __builtin_convertvector(sums, typename Lanes<W>::Floats);
}

// Rows [row, row + R) and V * W columns from `column` on.
struct PlainTile {
  template <int W, int R, int V>
  static REXIT_INLINE void run(const Int8ProductWork& work, std::size_t row, std::size_t column) {
    using L = Lanes<W>;
    const QuantizedInput x = work.x;
    const std::int8_t* weights[V];
    typename L::Ints sums[R][V];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < V; ++v) weights[v] = column_values(work.weight, x.width, column + v * W);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (std::size_t v = 0; v < V; ++v) sums[r][v] = column_offsets<W>(work.weight, column + v * W);
    add_products<W, R, V>(x.values + row * x.width, x.width, weights, V * W * x.width, sums);
    typename L::Floats scales[V];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < V; ++v) scales[v] = L::load(work.weight.scales + column + v * W);
    float* out = work.out + row * work.columns + column;
    const float* addends = work.addend.values != nullptr ? work.addend.values + row * work.addend.step + column : nullptr;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const typename L::Floats scale = L::all(x.scales[row + r]);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < V; ++v) {
        const typename L::Floats addend =
            addends != nullptr ? L::load(addends + r * work.addend.step + v * W) : typename L::Floats{};
        L::store(out + r * work.columns + v * W, Dot<W>::multiply_add(floats<W>(sums[r][v]) * scales[v], scale, addend));
      }
    }
  }
};

// activation(gate) * up, for the same columns of both.
template <Activation activation>
struct GatedTile {
  template <int W, int R, int V>
  static REXIT_INLINE void run(const Int8ProductWork& work, std::size_t row, std::size_t column) {
    using L = Lanes<W>;
    const QuantizedInput x = work.x;
    const std::int8_t* weights[2 * V];
    typename L::Ints sums[R][2 * V];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < V; ++v) {
      weights[v] = column_values(work.weight, x.width, column + v * W);
      weights[V + v] = column_values(work.up, x.width, column + v * W);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < V; ++v) {
        sums[r][v] = column_offsets<W>(work.weight, column + v * W);
        sums[r][V + v] = column_offsets<W>(work.up, column + v * W);
      }
    add_products<W, R, 2 * V>(x.values + row * x.width, x.width, weights, V * W * x.width, sums);
    typename L::Floats gate_scales[V], up_scales[V];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < V; ++v) {
      gate_scales[v] = L::load(work.weight.scales + column + v * W);
      up_scales[v] = L::load(work.up.scales + column + v * W);
    }
    float* out = work.out + row * work.columns + column;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const typename L::Floats scale = L::all(x.scales[row + r]);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < V; ++v) {
        const typename L::Floats gate = floats<W>(sums[r][v]) * gate_scales[v] * scale;
        const typename L::Floats up = floats<W>(sums[r][V + v]) * up_scales[v] * scale;
        L::store(out + r * work.columns + v * W, activate<activation, W>(gate) * up);
      }
    }
  }
};

template <class Tile, int W, int V>
REXIT_INLINE void multiply_rows_of(const Int8ProductWork& work, std::size_t begin, std::size_t end, std::size_t column) {
  std::size_t row = begin;
  for (; row + 6 <= end; row += 6) Tile::template run<W, 6, V>(work, row, column);
  for (; row + 2 <= end; row += 2) Tile::template run<W, 2, V>(work, row, column);
  for (; row < end; ++row) Tile::template run<W, 1, V>(work, row, column);
}

// Task i: up to `max_columns` columns, in V vectors at a time while they last. `work` is a copy, so that no store can change it.
template <class Tile, int W, int V>
REXIT_INLINE void int8_task(const Int8ProductWork work, std::size_t i, std::size_t max_columns) {
  const std::size_t begin = i % work.row_blocks * int8_rows, end = smaller_of(work.x.rows, begin + int8_rows);
  std::size_t column = i / work.row_blocks * max_columns;
  const std::size_t last = smaller_of(work.columns, column + max_columns);
  for (; column + V * W <= last; column += V * W) multiply_rows_of<Tile, W, V>(work, begin, end, column);
  for (; column < last; column += W) multiply_rows_of<Tile, W, 1>(work, begin, end, column);
}

namespace {

template <int W, Activation activation>
void gated_task(void* work, std::size_t i) {
  int8_task<GatedTile<activation>, W, 2>(*static_cast<const Int8ProductWork*>(work), i, int8_gated_columns);
}

template <int W>
constexpr Int8ProductTable make_int8_table() {
  return {
      [](void* work, std::size_t i) { int8_task<PlainTile, W, 4>(*static_cast<const Int8ProductWork*>(work), i, int8_columns); },
      {gated_task<W, Activation::silu>, gated_task<W, Activation::gelu>, gated_task<W, Activation::gelu_tanh>}};
}

}  // namespace
}  // namespace rexit::core::kernels

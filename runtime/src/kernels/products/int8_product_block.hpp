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
  std::size_t block_rows, row_blocks;  // of a task, and tasks per panel
};

constexpr std::size_t int8_columns = 64;  // of all weights together
// A panel of a weight is read from the core's private cache by all but the first rows of a block, whose rows are whole tiles.
constexpr std::size_t int8_vector_rows = 48;

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

// What becomes of the sums of rows [row, row + R) and V * W columns from `column` on. A kind has `weights`, whose sums lie side
// by side: sums[r][m * V + v] are those of weight m.
struct Plain {
  static constexpr std::size_t weights = 1;
  static REXIT_INLINE const PackedWeight& weight(const Int8ProductWork& work, std::size_t) { return work.weight; }

  template <int W, int R, int V>
  static REXIT_INLINE void finish(const Int8ProductWork& work, std::size_t row, std::size_t column,
                                  const typename Lanes<W>::Ints (&sums)[R][V]) {
    using L = Lanes<W>;
    typename L::Floats scales[V];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < V; ++v) scales[v] = L::load(work.weight.scales + column + v * W);
    float* out = work.out + row * work.columns + column;
    const float* addends = work.addend.values != nullptr ? work.addend.values + row * work.addend.step + column : nullptr;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const typename L::Floats scale = L::all(work.x.scales[row + r]);
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
struct Gated {
  static constexpr std::size_t weights = 2;
  static REXIT_INLINE const PackedWeight& weight(const Int8ProductWork& work, std::size_t m) {
    return m == 0 ? work.weight : work.up;
  }

  template <int W, int R, int V2>
  static REXIT_INLINE void finish(const Int8ProductWork& work, std::size_t row, std::size_t column,
                                  const typename Lanes<W>::Ints (&sums)[R][V2]) {
    using L = Lanes<W>;
    constexpr std::size_t V = V2 / 2;
    typename L::Floats gate_scales[V], up_scales[V];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < V; ++v) {
      gate_scales[v] = L::load(work.weight.scales + column + v * W);
      up_scales[v] = L::load(work.up.scales + column + v * W);
    }
    float* out = work.out + row * work.columns + column;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const typename L::Floats scale = L::all(work.x.scales[row + r]);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < V; ++v) {
        const typename L::Floats gate = floats<W>(sums[r][v]) * gate_scales[v] * scale;
        const typename L::Floats up = floats<W>(sums[r][V + v]) * up_scales[v] * scale;
        L::store(out + r * work.columns + v * W, activate<activation, W>(gate) * up);
      }
    }
  }
};

// Rows [row, row + R) and V * W columns from `column` on of each weight.
template <class Kind, int W, int R, int V>
REXIT_INLINE void multiply_tile_of(const Int8ProductWork& work, std::size_t row, std::size_t column) {
  constexpr std::size_t all = Kind::weights * V;
  const std::int8_t* weights[all];
  typename Lanes<W>::Ints sums[R][all];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < all; ++v) {
    const PackedWeight& weight = Kind::weight(work, v / V);
    weights[v] = column_values(weight, work.x.width, column + v % V * W);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) sums[r][v] = column_offsets<W>(weight, column + v % V * W);
  }
  add_products<W, R, all>(work.x.values + row * work.x.width, work.x.width, weights, V * W * work.x.width, sums);
  Kind::template finish<W, R>(work, row, column, sums);
}

template <class Kind, int W, int V>
REXIT_INLINE void multiply_rows_of(const Int8ProductWork& work, std::size_t begin, std::size_t end, std::size_t column) {
  std::size_t row = begin;
  for (; row + 6 <= end; row += 6) multiply_tile_of<Kind, W, 6, V>(work, row, column);
  for (; row + 2 <= end; row += 2) multiply_tile_of<Kind, W, 2, V>(work, row, column);
  for (; row < end; ++row) multiply_tile_of<Kind, W, 1, V>(work, row, column);
}

// What task i multiplies: rows [begin, end) by columns [column, last) of each weight.
struct Int8Block {
  Int8Block(const Int8ProductWork& work, std::size_t i, std::size_t max_columns)
      : begin(i % work.row_blocks * work.block_rows),
        end(smaller_of(work.x.rows, begin + work.block_rows)),
        column(i / work.row_blocks * max_columns),
        last(smaller_of(work.columns, column + max_columns)) {}

  std::size_t begin, end, column, last;
};

// Task i: up to `int8_columns` columns of all weights together, as many as sums stay in registers at a time while they last.
// `work` is a copy, so that no store can change it.
template <class Kind, int W>
REXIT_INLINE void int8_task(const Int8ProductWork work, std::size_t i) {
  constexpr int V = 4 / Kind::weights;
  const Int8Block block(work, i, int8_columns / Kind::weights);
  std::size_t column = block.column;
  for (; column + V * W <= block.last; column += V * W) multiply_rows_of<Kind, W, V>(work, block.begin, block.end, column);
  for (; column < block.last; column += W) multiply_rows_of<Kind, W, 1>(work, block.begin, block.end, column);
}

namespace {

// Task::run of each kind.
template <class Task>
constexpr Int8ProductTable make_int8_table(std::size_t rows) {
  return {rows,
          Task::template run<Plain>,
          {Task::template run<Gated<Activation::silu>>, Task::template run<Gated<Activation::gelu>>,
           Task::template run<Gated<Activation::gelu_tanh>>}};
}

}  // namespace
}  // namespace rexit::core::kernels

// The kernels' tasks, compiled from the same source (make_table.hpp) for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/threads.hpp"

namespace rexit::core::kernels {

// products[i] = the inner product of x and row i of `rows` [count, width]. Products are exact, and added in float64, in the
// same order by every instruction set.
using InnerProducts = void (*)(const float* x, const float* rows, std::size_t count, std::size_t width, double* products);
// The same of rows of halves, as bits. A product is not finite if a half of its row is not.
using HalfProducts = void (*)(const float* x, const std::uint16_t* rows, std::size_t count, std::size_t width, double* products);

enum class Activation { silu, gelu, gelu_tanh };  // gelu: x / 2 (1 + erf(x / sqrt 2)); gelu_tanh: its approximation by tanh

struct Table {
  std::size_t lanes;               // floats per vector
  Threads::Function pack, attend;  // data: AttentionWork
  // data: RowWork
  Threads::Function quantize = nullptr, rms_norm_quantize = nullptr, layer_norm = nullptr;
  Threads::Function activate = nullptr, gated_quantize = nullptr;
  Threads::Function scale_add = nullptr, round = nullptr, rms_norm_round = nullptr, swiglu_round = nullptr;
  Threads::Function multiply = nullptr;  // data: PanelWork
  InnerProducts inner_products = nullptr;
  HalfProducts half_products = nullptr;
  const struct PairTable* pairs = nullptr;        // null: the instruction set has none
  const struct Int8ProductTable* int8 = nullptr;  // the same
};

// With instructions for pairs of bfloat16 (attention.hpp, bfloat16_product_block.hpp).
struct PairTable {
  Threads::Function pack, attend;  // data: AttentionWork
  Threads::Function multiply;      // data: PanelWork
};

// Products of int8 (int8_product_block.hpp).
struct Int8ProductTable {
  std::size_t rows;  // of a task
  // data: Int8ProductWork
  Threads::Function multiply, multiply_gated[3];  // by Activation
};

extern const Table baseline_table;
#if defined(__x86_64__)
extern const Table avx2_table, avx512_table;
extern const PairTable avx512_pairs, avx512_amx_pairs;
extern const Int8ProductTable avx512_int8, avx512_amx_int8;
#elif defined(__aarch64__)
extern const PairTable neon_pairs;
#endif

// The tables that this processor can run, widest vectors first.
const std::vector<const Table*>& tables();
// The first of them; with $REXIT_KERNELS, the first whose vectors are no wider than it says: avx512 (without AMX), avx2 or
// baseline. Throws Error for another name. So the paths of smaller processors can be tried on a larger one.
const Table& table();

}  // namespace rexit::core::kernels

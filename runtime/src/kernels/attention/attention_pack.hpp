// Packing for products of floats: keys as columns, multiplied by the scale, and values converted to floats.
#pragma once

#include "kernels/attention/attention_work.hpp"

namespace rexit::core::kernels {

// `x` as the products read it.
template <int W>
REXIT_INLINE typename Lanes<W>::Floats operand(const SlateAttention& attention, typename Lanes<W>::Floats x) {
  return attention.bfloat16 ? Lanes<W>::to_bfloat16(x) : x;
}

// Packs W columns, `count` of them keys and the others 0: `key(c, at)` loads W numbers of column c, from row `at`.
template <int W, class Key>
REXIT_INLINE void pack_square(const AttentionWork& work, std::size_t count, float* to, const Key& key) {
  using L = Lanes<W>;
  const SlateAttention& attention = work.attention;
  for (std::size_t d = 0; d < attention.dim; d += W) {
    const std::size_t at = smaller_of(d, attention.dim - W);  // the last square may overlap the previous one
    typename L::Floats square[W];
#pragma GCC unroll 16
    for (std::size_t c = 0; c < W; ++c) square[c] = c < count ? operand<W>(attention, key(c, at)) : typename L::Floats{};
    transpose<W>(square);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < W; ++i) L::store(to + (at + i) * work.columns, square[i] * L::all(attention.scale));
  }
}

template <int W>
REXIT_INLINE void pack_keys(const AttentionWork& work, const PackTask& task) {
  const SlateAttention& attention = work.attention;
  for (std::size_t column = task.first; column < task.end(work.columns); column += W) {
    float* to = work.keys + task.head * attention.dim * work.columns + column;
    const std::size_t count = column < task.known() ? smaller_of(W, task.known() - column) : 0;
    if (task.is_past(column) && !task.is_past(column + W - 1)) {  // keys of both tensors
      pack_square<W>(work, count, to, [&](std::size_t c, std::size_t at) __attribute__((always_inline)) {
        const Stored& stored = task.is_past(column + c) ? attention.past_key : attention.key;
        typename Lanes<W>::Floats part;
        visit<W>(stored, attention.dim,
                 [&](const auto& keys) __attribute__((always_inline)) { part = keys(task.row(column + c), at); });
        return part;
      });
      continue;
    }
    const std::size_t row = task.row(column);
    visit<W>(task.is_past(column) ? attention.past_key : attention.key, attention.dim,
             [&](const auto& keys) __attribute__((always_inline)) {
               pack_square<W>(work, count, to,
                              [&](std::size_t c, std::size_t at) __attribute__((always_inline)) { return keys(row + c, at); });
             });
  }
}

// Rows [first, first + count) as floats; dim >= W.
template <int W>
REXIT_INLINE void convert(const SlateAttention& attention, const Stored& stored, std::size_t first, std::size_t count,
                          float* to) {
  const std::size_t dim = attention.dim;
  visit<W>(stored, dim, [&](const auto& rows) __attribute__((always_inline)) {
    for (std::size_t row = first; row < first + count; ++row)
      for (std::size_t d = 0; d < dim; d += W) {
        const std::size_t at = smaller_of(d, dim - W);  // the last vector may overlap the previous one
        Lanes<W>::store(to + row * dim + at, operand<W>(attention, rows(row, at)));
      }
  });
}

template <int W>
REXIT_INLINE void convert_values(const AttentionWork& work, const PackTask& task) {
  const SlateAttention& attention = work.attention;
  const std::size_t past_end = task.end(attention.prefix), end = task.end(task.known());
  const std::size_t begin = larger_of(task.first, attention.prefix);
  if (work.past_values != nullptr && task.first < past_end)
    convert<W>(attention, attention.past_value, task.row(task.first), past_end - task.first, work.past_values);
  if (work.values != nullptr && begin < end) convert<W>(attention, attention.value, task.row(begin), end - begin, work.values);
}

template <int W>
REXIT_INLINE void pack(const AttentionWork& work, std::size_t i) {
  const PackTask task(work, i);
  pack_keys<W>(work, task);
  convert_values<W>(work, task);
}

}  // namespace rexit::core::kernels

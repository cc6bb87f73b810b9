// Products of matrices with vectors of W floats, or of W pairs of bfloat16. Inlined, as lanes.hpp says.
#pragma once

#include "kernels/lanes.hpp"

namespace rexit::core::kernels {

// A product of floats, for multiply().
template <int W>
struct FloatProduct {
  using Floats = typename Lanes<W>::Floats;
  static REXIT_INLINE Floats broadcast(const float* x) { return Lanes<W>::all(*x); }
  static REXIT_INLINE Floats multiply_add(Floats sum, Floats a, Floats b) { return sum + a * b; }
};

// Two numbers in bfloat16 in the bits of a float, the first in the low half: twice as many products per instruction.
template <int W>
struct Bfloat16Pairs;

#if defined(__AVX512BF16__)
template <>
struct Bfloat16Pairs<16> {
  using Floats = Lanes<16>::Floats;

  static REXIT_INLINE Floats broadcast(const float* x) {
    std::int32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return reinterpret_cast<Floats>(_mm512_set1_epi32(bits));
  }
  // sum + first a * first b + second a * second b. Numbers below 2^-126 count as 0. Not by the intrinsic: GCC 12 then stores the
  // sums of a narrow tile to memory after every step.
  static REXIT_INLINE Floats multiply_add(Floats sum, Floats a, Floats b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  // Rounded to nearest, ties to even. Lane i: first[i] and second[i].
  static REXIT_INLINE Floats zip(Floats first, Floats second) {
    const __m512i low = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(first)));
    const __m512i high = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(second)));
    return reinterpret_cast<Floats>(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
  // As zip(). Lane i: elements 2i and 2i + 1 of `first` followed by `second`.
  static REXIT_INLINE Floats join(Floats first, Floats second) {
    return reinterpret_cast<Floats>(_mm512_cvtne2ps_pbh(second, first));
  }
};
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
template <>
struct Bfloat16Pairs<4> {
  using Floats = Lanes<4>::Floats;

  static REXIT_INLINE Floats broadcast(const float* x) {
    std::uint32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return reinterpret_cast<Floats>(vdupq_n_u32(bits));
  }
  static REXIT_INLINE Floats multiply_add(Floats sum, Floats a, Floats b) {
    return reinterpret_cast<Floats>(
        vbfdotq_f32(reinterpret_cast<float32x4_t>(sum), reinterpret_cast<bfloat16x8_t>(a), reinterpret_cast<bfloat16x8_t>(b)));
  }
  static REXIT_INLINE Floats zip(Floats first, Floats second) {
    const uint16x8_t both = reinterpret_cast<uint16x8_t>(join(first, second));
    return reinterpret_cast<Floats>(vzip1q_u16(both, vextq_u16(both, both, 4)));
  }
  static REXIT_INLINE Floats join(Floats first, Floats second) {
    const bfloat16x8_t low = vcvtq_low_bf16_f32(reinterpret_cast<float32x4_t>(first));
    return reinterpret_cast<Floats>(vcvtq_high_bf16_f32(low, reinterpret_cast<float32x4_t>(second)));
  }
};
#endif

// c[r][0 … V*W) (+)= sum over i < k of a[r][i] * b[i][0 … V*W), r < R.
template <int W, int R, int V, class Product>
REXIT_INLINE void multiply_tile(const float* const* a, const float* b, std::size_t b_stride, std::size_t k, float* c,
                                std::size_t c_stride, bool add) {
  using L = Lanes<W>;
  typename L::Floats sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sums[r][v] = add ? L::load(c + static_cast<std::size_t>(r) * c_stride + v * W) : typename L::Floats{};
  for (std::size_t i = 0; i < k; ++i) {
    typename L::Floats row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = L::load(b + i * b_stride + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename L::Floats factor = Product::broadcast(a[r] + i);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = Product::multiply_add(sums[r][v], factor, row[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) L::store(c + static_cast<std::size_t>(r) * c_stride + v * W, sums[r][v]);
}

template <int W, int R, int V, class Product>
REXIT_INLINE void multiply_rows(const float* const* a, const float* b, std::size_t b_stride, std::size_t k, std::size_t n,
                                float* c, std::size_t c_stride, bool add) {
  std::size_t begin = 0;
  for (; begin + V * W <= n; begin += V * W) multiply_tile<W, R, V, Product>(a, b + begin, b_stride, k, c + begin, c_stride, add);
  if constexpr (V > 2)
    for (; begin + 2 * W <= n; begin += 2 * W)
      multiply_tile<W, R, 2, Product>(a, b + begin, b_stride, k, c + begin, c_stride, add);
  for (; begin + W <= n; begin += W) multiply_tile<W, R, 1, Product>(a, b + begin, b_stride, k, c + begin, c_stride, add);
  if (begin < n) multiply_tile<W, R, 1, Product>(a, b + n - W, b_stride, k, c + begin, c_stride, add);
}

// c [rows, n] (+)= a [rows, k] * b [k, n], n >= W; a's rows need not be adjacent. V * 6 sums stay in registers. If n is not a
// multiple of W, a row of c ends in a vector with the last W columns, some of which the vector before it has, too. So it reads
// nothing beyond b's rows. With Bfloat16Pairs an element of a and b is a pair, and of c a float.
template <int W, int V, class Product = FloatProduct<W>>
REXIT_INLINE void multiply(const float* const* a, std::size_t rows, const float* b, std::size_t b_stride, std::size_t k,
                           std::size_t n, float* c, std::size_t c_stride, bool add) {
  std::size_t r = 0;
  for (; r + 6 <= rows; r += 6) multiply_rows<W, 6, V, Product>(a + r, b, b_stride, k, n, c + r * c_stride, c_stride, add);
  for (; r + 3 <= rows; r += 3) multiply_rows<W, 3, V, Product>(a + r, b, b_stride, k, n, c + r * c_stride, c_stride, add);
  for (; r < rows; ++r) multiply_rows<W, 1, V, Product>(a + r, b, b_stride, k, n, c + r * c_stride, c_stride, add);
}

}  // namespace rexit::core::kernels

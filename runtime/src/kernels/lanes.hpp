// Arithmetic on W floats at once, with the compilers' vector extension: one source for AVX-512, AVX2, NEON and SSE2.
//
// Included by files compiled for instructions that this processor may lack (table.hpp). So everything here is inlined, and
// nothing from the standard library emits a function here: the linker would keep a single copy for all files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "base/half.hpp"

#define REXIT_INLINE inline __attribute__((always_inline))

namespace rexit::core::kernels {

REXIT_INLINE float from_bits(std::uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

REXIT_INLINE float from_bfloat16(std::uint16_t number) { return from_bits(std::uint32_t{number} << 16); }

template <int W>
REXIT_INLINE void from_halves(const std::uint16_t* from, float (&to)[W]) {
  for (std::size_t i = 0; i < W; ++i) to[i] = from_half(from[i]);
}

// For processors with an instruction for it. Compilers may call a function that the target's libraries lack.
#if defined(__AVX512F__)
REXIT_INLINE void from_halves(const std::uint16_t* from, float (&to)[16]) {
  _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}
#endif
#if defined(__F16C__)
REXIT_INLINE void from_halves(const std::uint16_t* from, float (&to)[8]) {
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
#elif defined(__aarch64__)
REXIT_INLINE void from_halves(const std::uint16_t* from, float (&to)[4]) {
  vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))));
}
REXIT_INLINE void from_halves(const std::uint16_t* from, float (&to)[8]) {
  const uint16x8_t halves = vld1q_u16(from);
  vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves))));
  vst1q_f32(to + 4, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves))));
}
#endif

constexpr float log2_e = 1.44269504F;

template <int W>
struct Lanes {
  typedef float Floats __attribute__((vector_size(W * sizeof(float))));
  typedef std::int32_t Ints __attribute__((vector_size(W * sizeof(std::int32_t))));
  typedef std::uint16_t Shorts __attribute__((vector_size(W * sizeof(std::uint16_t))));
  typedef std::uint8_t Bytes __attribute__((vector_size(W)));

  static REXIT_INLINE Floats load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  static REXIT_INLINE void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }
  // W halves as bits.
  static REXIT_INLINE Floats load(const std::uint16_t* from) {
    float elements[W];
    from_halves(from, elements);
    return load(elements);
  }
  // The first `count` of W; the others are 0.
  static REXIT_INLINE Floats load(const float* from, std::size_t count) {
    if (count == W) return load(from);
    Floats x{};
    std::memcpy(&x, from, count * sizeof(float));
    return x;
  }
  static REXIT_INLINE void store(float* to, Floats x, std::size_t count) {
    std::memcpy(to, &x, count == W ? sizeof x : count * sizeof(float));
  }
  static REXIT_INLINE Floats all(float x) { return x - Floats{}; }
  static REXIT_INLINE Floats select(Ints mask, Floats yes, Floats no) {
    return reinterpret_cast<Floats>((mask & reinterpret_cast<Ints>(yes)) | (~mask & reinterpret_cast<Ints>(no)));
  }
  // b if either is NaN.
  static REXIT_INLINE Floats larger(Floats a, Floats b) { return select(a > b, a, b); }
  static REXIT_INLINE Floats smaller(Floats a, Floats b) { return select(a < b, a, b); }
  // The bits of |x|. Their order is that of the numbers, with NaN above infinity, so the largest is NaN if any number is.
  static REXIT_INLINE Ints magnitude(Floats x) { return reinterpret_cast<Ints>(x) & (Ints{} + 0x7fffffff); }
  static REXIT_INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
  static REXIT_INLINE float sum(Floats x) {
    float elements[W], total = 0;
    store(elements, x);
    for (const float element : elements) total += element;
    return total;
  }
  // In another order, faster: halves, then their halves. float32's attention keeps sum(), and with it its bits.
  static REXIT_INLINE float sum_of_halves(Floats x) {
    float elements[W];
    store(elements, x);
    for (int half = W / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) elements[i] += elements[half + i];
    return elements[0];
  }
  static REXIT_INLINE float largest(Floats x) {
    float elements[W];
    store(elements, x);
    float maximum = elements[0];
    for (const float element : elements) maximum = element > maximum ? element : maximum;
    return maximum;
  }
  // The largest magnitude, as a float.
  static REXIT_INLINE float largest(Ints magnitudes) {
    std::int32_t elements[W], maximum = 0;
    std::memcpy(elements, &magnitudes, sizeof elements);
    for (const std::int32_t element : elements) maximum = element > maximum ? element : maximum;
    return from_bits(static_cast<std::uint32_t>(maximum));
  }

  // Rounded to bfloat16, ties to even.
  static REXIT_INLINE Floats to_bfloat16(Floats x) {
    const Ints bits = reinterpret_cast<Ints>(x);
    const Ints nearest = (bits + 0x7fff + (bits >> 16 & 1)) & ~0xffff;
    return select(x == x, reinterpret_cast<Floats>(nearest), x + x);
  }

  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, for |x| < 2^22; in between, the low bits hold
  // the integer.
  static constexpr float rounder = 12582912.0F;
  static REXIT_INLINE Ints rounded(Floats x) {
    return reinterpret_cast<Ints>(x + all(rounder)) - reinterpret_cast<Ints>(all(rounder));
  }

  // e^x with a relative error of about 2e-7: 2^n * e^r with |r| <= ln 2 / 2 and a polynomial of degree 6, with the coefficients
  // of Cephes' expf. 0 below -87.3, e^88 above 88.
  static REXIT_INLINE Floats exp(Floats x) {
    const Ints tiny = x < all(-87.3F);
    x = larger(all(-87.3F), smaller(all(88.0F), x));
    const Floats shifted = x * all(log2_e) + all(rounder);
    const Floats n = shifted - all(rounder);
    const Floats r = x - n * all(0.693359375F) - n * all(-2.12194440e-4F);
    Floats p = all(1.9875691500e-4F);
    p = p * r + all(1.3981999507e-3F);
    p = p * r + all(8.3334519073e-3F);
    p = p * r + all(4.1665795894e-2F);
    p = p * r + all(1.6666665459e-1F);
    p = p * r + all(5.0000001201e-1F);
    p = p * r * r + r + all(1.0F);
    const Ints power = (reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(all(rounder)) + 127) << 23;
    return select(tiny, Floats{}, p * reinterpret_cast<Floats>(power));
  }

  // With an error below 9e-7, and of a GELU below 1e-6: x times a polynomial of degree 13 in x^2, fitted so that the GELU's
  // largest error is least and that erf is 1 from the limit on, to the bit. Neighbours are summed first: in Horner's order each
  // step would wait for the one before.
  static REXIT_INLINE Floats erf(Floats x) {
    constexpr float limit = 3.708984375F;  // its square times the factor below is 2 to the bit
    x = larger(all(-limit), smaller(all(limit), x));
    const Floats s = x * x * all(2 / (limit * limit)) - all(1), s2 = s * s, s4 = s2 * s2;
    const Floats p0 = all(0.381214678F) + all(-0.190025449F) * s, p2 = all(0.14052102F) + all(-0.112546958F) * s;
    const Floats p4 = all(0.0905957818F) + all(-0.0704267249F) * s, p6 = all(0.0521424226F) + all(-0.0373640619F) * s;
    const Floats p8 = all(0.0245915726F) + all(-0.0127080772F) * s, p10 = all(0.00622852705F) + all(-0.00530945929F) * s;
    const Floats p12 = all(0.00370068802F) + all(-0.000998379663F) * s;
    return x * (p0 + p2 * s2 + s4 * (p4 + p6 * s2 + s4 * (p8 + p10 * s2 + s4 * p12)));
  }

  // 2^x for |x| <= 1/2 with a relative error below 3e-6, a thousandth of bfloat16's: the polynomial of degree 4 with the
  // smallest.
  static REXIT_INLINE Floats exp2_near_zero(Floats x) {
    Floats p = all(0.00957010221F);
    p = p * x + all(0.0559178591F);
    p = p * x + all(0.240247443F);
    p = p * x + all(0.693121791F);
    return p * x + all(0.999999285F);
  }

  // 2^x for x that is at most 0 before rounding, or NaN: 2^n * 2^r with |r| <= 1/2. 0 or nearly 0 below -126.5.
  static REXIT_INLINE Floats exp2(Floats x) {
    x = larger(all(-127.0F), x);
    const Floats shifted = x + all(rounder);
    const Ints power = (reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(all(rounder)) + 127) << 23;
    return exp2_near_zero(x - (shifted - all(rounder))) * reinterpret_cast<Floats>(power);
  }
};

// Writes the first `count` of W numbers, rounded to bfloat16.
template <int W>
REXIT_INLINE void store_bfloat16(std::uint16_t* to, typename Lanes<W>::Floats x, std::size_t count) {
  using L = Lanes<W>;
  const typename L::Ints bits = reinterpret_cast<typename L::Ints>(L::to_bfloat16(x)) >> 16;
  const auto high = __builtin_convertvector(bits, typename L::Shorts);
  std::memcpy(to, &high, count == W ? sizeof high : count * sizeof(std::uint16_t));
}

// Writes the lowest bytes of the first `count` of W numbers.
template <int W>
REXIT_INLINE void store_bytes(void* to, typename Lanes<W>::Ints x, std::size_t count) {
  const auto bytes = __builtin_convertvector(x, typename Lanes<W>::Bytes);
  std::memcpy(to, &bytes, count);
}

// GCC converts to fewer bytes than a vector has number by number.
#if defined(__AVX2__)
template <>
REXIT_INLINE void store_bytes<8>(void* to, Lanes<8>::Ints x, std::size_t count) {
  const __m256i fours = _mm256_shuffle_epi8(reinterpret_cast<__m256i>(x), _mm256_set1_epi32(0x0c080400));
  const __m128i bytes = _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
  std::memcpy(to, &bytes, count);
}
#elif defined(__SSE2__)
template <>
REXIT_INLINE void store_bytes<4>(void* to, Lanes<4>::Ints x, std::size_t count) {
  const __m128i low = _mm_and_si128(reinterpret_cast<__m128i>(x), _mm_set1_epi32(0xff));
  const __m128i shorts = _mm_packs_epi32(low, low), bytes = _mm_packus_epi16(shorts, shorts);
  std::memcpy(to, &bytes, count);
}
#elif defined(__aarch64__)
template <>
REXIT_INLINE void store_bytes<4>(void* to, Lanes<4>::Ints x, std::size_t count) {
  const int16x4_t shorts = vmovn_s32(reinterpret_cast<int32x4_t>(x));
  const int8x8_t bytes = vmovn_s16(vcombine_s16(shorts, shorts));
  std::memcpy(to, &bytes, count);
}
#endif

// By an instruction, which compilers do not see in the comparison.
#if defined(__AVX512F__)
template <>
REXIT_INLINE Lanes<16>::Floats Lanes<16>::larger(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
template <>
REXIT_INLINE Lanes<16>::Floats Lanes<16>::smaller(Floats a, Floats b) {
  return _mm512_min_ps(a, b);
}
template <>
REXIT_INLINE float Lanes<16>::largest(Floats x) {
  return _mm512_reduce_max_ps(x);
}
template <>
REXIT_INLINE float Lanes<16>::largest(Ints magnitudes) {
  return from_bits(static_cast<std::uint32_t>(_mm512_reduce_max_epi32(reinterpret_cast<__m512i>(magnitudes))));
}
template <>
REXIT_INLINE float Lanes<16>::sum_of_halves(Floats x) {
  return _mm512_reduce_add_ps(x);
}
// Rounded to the nearest integer, and scaled by a power of two, each by one instruction.
template <>
REXIT_INLINE Lanes<16>::Floats Lanes<16>::exp2(Floats x) {
  const Floats n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_scalef_ps(exp2_near_zero(x - n), n);
}
#elif defined(__AVX__)
template <>
REXIT_INLINE Lanes<8>::Floats Lanes<8>::larger(Floats a, Floats b) {
  return _mm256_max_ps(a, b);
}
template <>
REXIT_INLINE Lanes<8>::Floats Lanes<8>::smaller(Floats a, Floats b) {
  return _mm256_min_ps(a, b);
}
#endif

// Divides the rows into squares of 2 * side, and a square into quarters; swaps the upper right and the lower left quarter;
// continues with twice the side. Compilers recognise these initialisers as shuffles of two vectors.
template <int W, int side, int... Column>
REXIT_INLINE void exchange(typename Lanes<W>::Floats (&rows)[W], std::integer_sequence<int, Column...> columns) {
  using Floats = typename Lanes<W>::Floats;
  if constexpr (side < W) {
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) {
      if (r & side) continue;
      const Floats upper = rows[r], lower = rows[r + side];
      rows[r] = Floats{(Column & side ? lower : upper)[Column & ~side]...};
      rows[r + side] = Floats{(Column & side ? lower : upper)[Column | side]...};
    }
    exchange<W, 2 * side>(rows, columns);
  }
}

// Swaps rows[i][j] and rows[j][i].
template <int W>
REXIT_INLINE void transpose(typename Lanes<W>::Floats (&rows)[W]) {
  exchange<W, 1>(rows, std::make_integer_sequence<int, W>());
}

// Covers [0, n) by calls of body(begin, count): W elements at a time, then the remainder.
template <int W, class Body>
REXIT_INLINE void across(std::size_t n, const Body& body) {
  std::size_t i = 0;
  for (; i + W <= n; i += W) body(i, std::size_t{W});
  if (i < n) body(i, n - i);
}

REXIT_INLINE constexpr std::size_t larger_of(std::size_t a, std::size_t b) { return a > b ? a : b; }
REXIT_INLINE constexpr std::size_t smaller_of(std::size_t a, std::size_t b) { return a < b ? a : b; }
REXIT_INLINE constexpr std::size_t ceil_div(std::size_t n, std::size_t by) { return (n + by - 1) / by; }
REXIT_INLINE constexpr std::size_t round_up(std::size_t n, std::size_t to) { return ceil_div(n, to) * to; }

}  // namespace rexit::core::kernels

// IEEE halves without F16C. Conversion to float is exact for every finite half, and simple enough for the compiler to vectorise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "files/safetensors.hpp"

namespace rexit::core {

inline bool is_finite(Half half) noexcept { return (static_cast<std::uint16_t>(half) & 0x7c00u) != 0x7c00u; }

// No early return, so that the compiler may vectorise.
inline bool all_finite(const Half* halves, std::size_t count) noexcept {
  unsigned any_not_finite = 0;
  for (std::size_t i = 0; i < count; ++i) any_not_finite |= is_finite(halves[i]) ? 0u : 1u;
  return any_not_finite == 0;
}

inline bool is_zero(Half half) noexcept { return (static_cast<std::uint16_t>(half) & 0x7fffu) == 0; }

inline float to_float(Half half) noexcept {
  const std::uint32_t bits = static_cast<std::uint16_t>(half);
  // A half's exponent and mantissa, read as a float's, are too small by a factor of 2^112, subnormals included.
  const std::uint32_t magnitude = (bits & 0x7fffu) << 13, factor_bits = 0x77800000u;
  float value, factor;
  std::memcpy(&value, &magnitude, 4);
  std::memcpy(&factor, &factor_bits, 4);
  value *= factor;
  return (bits & 0x8000u) != 0 ? -value : value;
}

// The half nearest to `x`, ties to even, for |x| <= 1.
inline float rounded_to_half(double x) noexcept {
  constexpr int mantissa = 11, smallest = -24;  // bits; the exponent of the smallest subnormal
  int exponent = 0;
  std::frexp(x, &exponent);
  const int unit = std::max(exponent - mantissa, smallest);
  return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit));
}

}  // namespace rexit::core

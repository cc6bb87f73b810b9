// Halves of a table.
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

// Exact for every finite half. Without from_half()'s infinities, which tables do not have, a search takes fewer instructions.
inline float to_float(Half half) noexcept {
  const std::uint32_t bits = static_cast<std::uint16_t>(half), magnitude = bits & 0x7fffU;
  // A subnormal is read as 2^-14 more than it is. No arithmetic on a subnormal float, see from_half().
  const std::uint32_t subnormal = magnitude < 0x400U ? 0xffffffffU : 0U;
  const std::uint32_t value_bits = (magnitude << 13) + 0x38000000U + (subnormal & 0x00800000U),
                      excess_bits = subnormal & 0x38800000U;
  float value, excess;
  std::memcpy(&value, &value_bits, sizeof value);
  std::memcpy(&excess, &excess_bits, sizeof excess);
  value -= excess;
  return (bits & 0x8000U) != 0 ? -value : value;
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

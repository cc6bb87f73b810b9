// IEEE half to float, without F16C: exact for every finite half, and simple enough for the compiler to vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#include "files/safetensors.hpp"

namespace rexit::core {

inline bool is_finite(Half half) noexcept { return (static_cast<std::uint16_t>(half) & 0x7c00u) != 0x7c00u; }

inline bool is_zero(Half half) noexcept { return (static_cast<std::uint16_t>(half) & 0x7fffu) == 0; }

inline float to_float(Half half) noexcept {
  const std::uint32_t bits = static_cast<std::uint16_t>(half);
  // A half's exponent and mantissa, read as a float's, are too small by a factor of 2^112, subnormals included.
  const std::uint32_t magnitude = (bits & 0x7fffu) << 13, scale = 0x77800000u;
  float value, by;
  std::memcpy(&value, &magnitude, 4);
  std::memcpy(&by, &scale, 4);
  value *= by;
  return (bits & 0x8000u) != 0 ? -value : value;
}

}  // namespace rexit::core

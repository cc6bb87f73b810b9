// IEEE halves without an instruction for them.
#pragma once

#include <cstdint>
#include <cstring>

namespace rexit::core {

// Exact for every half. Always inlined, since the kernels compile it for instructions that this processor may lack; no branch, so
// that compilers vectorise it; and no arithmetic on a subnormal float, which is 0 in a program that has set the processor's DAZ
// bit.
inline __attribute__((always_inline)) float from_half(std::uint16_t half) noexcept {
  const std::uint32_t magnitude = half & 0x7fffU, sign = (half & 0x8000U) << 16;
  // The exponent's bias is 15 in a half and 127 in a float; infinity and NaN keep the highest exponent.
  const std::uint32_t normal = (magnitude << 13) + (magnitude < 0x7c00U ? 0x38000000U : 0x70000000U);
  const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24F;
  std::uint32_t subnormal;
  std::memcpy(&subnormal, &small, sizeof subnormal);
  const std::uint32_t bits = sign | (magnitude < 0x400U ? subnormal : normal);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace rexit::core

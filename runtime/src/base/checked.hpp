// Multiplies sizes that come from files, without wrapping around.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <optional>

namespace rexit::core {

// The product; nullopt if it exceeds the largest possible allocation.
inline std::optional<std::size_t> checked_multiply(std::initializer_list<std::size_t> factors) noexcept {
  std::size_t product = 1;
  for (const std::size_t factor : factors) {
    if (factor != 0 && product > std::size_t{PTRDIFF_MAX} / factor) return std::nullopt;
    product *= factor;
  }
  return product;
}

// The product. Throws std::bad_alloc if it exceeds the largest possible allocation.
template <class... Sizes>
std::size_t product(Sizes... sizes) {
  if (const auto size = checked_multiply({static_cast<std::size_t>(sizes)...})) return *size;
  throw std::bad_alloc();
}

}  // namespace rexit::core

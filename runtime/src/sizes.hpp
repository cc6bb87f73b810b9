// Sizes that come from files, multiplied.
#pragma once

#include <cstddef>
#include <new>

namespace rexit::core {

// Throws std::bad_alloc for more than a size can say: there is no such memory.
inline std::size_t product(std::size_t size) { return size; }
template <class... Sizes>
std::size_t product(std::size_t first, Sizes... others) {
  std::size_t size = 0;
  if (__builtin_mul_overflow(first, product(others...), &size)) throw std::bad_alloc();
  return size;
}

}  // namespace rexit::core

// Inner products of one embedding with many. The same vectors whatever the instruction set, so that all add in the same order.
#pragma once

#include <cstddef>
#include <cstring>

namespace rexit::core::kernels {
namespace {

inline void inner_products(const float* x, const float* rows, std::size_t count, std::size_t width, double* products) {
  constexpr std::size_t lanes = 8;
  typedef float Floats __attribute__((vector_size(lanes * sizeof(float))));
  typedef double Doubles __attribute__((vector_size(lanes * sizeof(double))));
  for (std::size_t row = 0; row < count; ++row) {
    const float* y = rows + row * width;
    Doubles sums{};
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      Floats a, b;
      std::memcpy(&a, x + i, sizeof a);
      std::memcpy(&b, y + i, sizeof b);
      sums += __builtin_convertvector(a * b, Doubles);
    }
    for (; i < width; ++i) sums[0] += static_cast<double>(x[i] * y[i]);
    double sum = 0;
    for (std::size_t l = 0; l < lanes; ++l) sum += sums[l];
    products[row] = sum;
  }
}

}  // namespace
}  // namespace rexit::core::kernels

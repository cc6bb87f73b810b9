// Activations of a vector of W numbers.
#pragma once

#include <type_traits>

#include "kernels/lanes.hpp"
#include "kernels/table.hpp"

namespace rexit::core::kernels {

template <Activation activation, int W>
REXIT_INLINE typename Lanes<W>::Floats activate(typename Lanes<W>::Floats x) {
  using L = Lanes<W>;
  if constexpr (activation == Activation::gelu) {
    return x * L::all(0.5F) * (L::all(1) + L::erf(x * L::all(0.707106781F)));
  } else if constexpr (activation == Activation::gelu_tanh) {
    // 1 + tanh(u) = 2 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    const typename L::Floats twice = x * (L::all(1.59576912F) + L::all(0.0713548163F) * x * x);
    return x / (L::all(1) + L::exp(-twice));
  } else {
    return x / (L::all(1) + L::exp(-x));
  }
}

// Calls body(std::integral_constant<Activation, ...>()).
template <class Body>
REXIT_INLINE void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::silu:
      return body(std::integral_constant<Activation, Activation::silu>());
    case Activation::gelu:
      return body(std::integral_constant<Activation, Activation::gelu>());
    case Activation::gelu_tanh:
      return body(std::integral_constant<Activation, Activation::gelu_tanh>());
  }
}

}  // namespace rexit::core::kernels

// All finite halves, against their definition.
#include <gtest/gtest.h>

#include <cmath>

#include "files/half.hpp"

using rexit::core::Half;

TEST(Half, EveryFiniteValueIsExact) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
    const auto half = static_cast<Half>(bits);
    ASSERT_EQ(rexit::core::is_finite(half), exponent != 31);
    if (exponent == 31) continue;
    const double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(rexit::core::is_zero(half), value == 0);
    ASSERT_EQ(rexit::core::to_float(half), (bits & 0x8000) != 0 ? -value : value) << bits;
  }
}

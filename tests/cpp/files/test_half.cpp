// All finite halves, against their definition, and rounding to them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

#if defined(__SSE2__)
// As compilers set it with -ffast-math, for the whole program.
TEST(Half, SubnormalOnesAreExactWhereSubnormalFloatsAreZero) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // FTZ, DAZ
  const volatile float tiny = std::numeric_limits<float>::denorm_min();
  const bool is_zero = tiny == 0;
  unsigned wrong = 0;
  for (unsigned bits = 1; bits < 0x400; ++bits)
    wrong += rexit::core::to_float(static_cast<Half>(bits)) != static_cast<float>(bits) * 0x1p-24F;
  _mm_setcsr(before);
  EXPECT_TRUE(is_zero);
  EXPECT_EQ(wrong, 0u);
}
#endif

// Rounds to the nearer neighbour, and in the middle to the even one. A step beside the middle decides.
TEST(Half, RoundingGoesToTheNearestAndInTheMiddleToTheEven) {
  for (unsigned bits = 0; bits < 0x3c00; ++bits) {  // up to 1
    const double low = rexit::core::to_float(static_cast<Half>(bits)), high = rexit::core::to_float(static_cast<Half>(bits + 1));
    const double middle = (low + high) / 2;
    for (const double sign : {1.0, -1.0}) {
      ASSERT_EQ(rexit::core::rounded_to_half(sign * low), sign * low) << bits;
      ASSERT_EQ(rexit::core::rounded_to_half(sign * middle), sign * (bits % 2 == 0 ? low : high)) << bits;
      ASSERT_EQ(rexit::core::rounded_to_half(sign * std::nextafter(middle, 0)), sign * low) << bits;
      ASSERT_EQ(rexit::core::rounded_to_half(sign * std::nextafter(middle, 1)), sign * high) << bits;
    }
  }
}

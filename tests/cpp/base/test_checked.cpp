// Products that do not wrap around.
#include <gtest/gtest.h>

#include "base/checked.hpp"

using rexit::core::checked_multiply;

TEST(CheckedMultiply, GivesProductsUpToTheLargestAllocation) {
  const std::size_t most = PTRDIFF_MAX;
  EXPECT_EQ(checked_multiply({}), 1u);
  EXPECT_EQ(checked_multiply({3, 5, 7}), 105u);
  EXPECT_EQ(checked_multiply({most}), most);
  EXPECT_EQ(checked_multiply({most / 2, 2}), most - 1);
  EXPECT_EQ(checked_multiply({most, most, 0}), std::nullopt);
  EXPECT_EQ(checked_multiply({0, most, most}), 0u);
  EXPECT_EQ(checked_multiply({most / 2 + 1, 2}), std::nullopt);
  EXPECT_EQ(checked_multiply({SIZE_MAX, SIZE_MAX}), std::nullopt);  // which wraps to 1
}

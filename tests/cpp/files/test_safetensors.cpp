// Views of a well-formed table; damaged ones are tests/damage's.
#include <gtest/gtest.h>

#include "base/status.hpp"
#include "bundles.hpp"
#include "files/safetensors.hpp"

using namespace rexit::core;

TEST(Safetensors, GivesTypedViews) {
  const Safetensors users(File(sound_bundle() + "/catalog/users.safetensors"));
  const Array<std::int64_t> ids = users.array<std::int64_t>("ids", {12});
  EXPECT_EQ(ids[0], 100);
  EXPECT_EQ(ids[11], 133);
  EXPECT_EQ(users.array<std::int32_t>("similar", {12, std::nullopt}).size, 36u);
  EXPECT_THROW(users.array<std::int64_t>("ids", {13}), Error);
  EXPECT_THROW(users.array<std::int64_t>("ids", {12, 1}), Error);
  EXPECT_THROW(users.array<std::int32_t>("ids", {12}), Error);
}

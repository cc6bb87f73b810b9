// Which bin a c is counted in.
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "session/counters.hpp"

using namespace rexit::core;

TEST(Counters, BinsAreHalfOpenAndTheOuterBinsOpen) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [c, bin] : {std::pair{-infinity, 0u},
                               {-1e30f, 0u},
                               {-8.0f, 0u},
                               {-7.6f, 0u},
                               {-7.5f, 1u},
                               {-0.1f, 15u},
                               {-0.0f, 16u},
                               {0.0f, 16u},
                               {0.49999997f, 16u},
                               {0.5f, 17u},
                               {7.4999995f, 30u},
                               {7.5f, 31u},
                               {8.0f, 31u},
                               {1e30f, 31u},
                               {infinity, 31u}})
    EXPECT_EQ(ExitCounters::bin(c), bin) << c;
}

TEST(Counters, ARequestCountsOnceItIsCommitted) {
  Counters counters(2);
  counters.begin();
  counters.count_arrival(0, 1);
  counters.count_answer(0, false);
  EXPECT_EQ(counters.total()[0].reached, 0u);
  counters.begin();  // the first has failed
  counters.count_arrival(0, 1);
  counters.count_arrival(1, -9);
  counters.count_answer(1, true);
  counters.commit();
  EXPECT_EQ(counters.total()[0].reached, 1u);
  EXPECT_EQ(counters.total()[0].stopped, 0u);
  EXPECT_EQ(counters.total()[0].histogram[18], 1u);
  EXPECT_EQ(counters.total()[1].cut_short, 1u);
  EXPECT_EQ(counters.total()[1].histogram[0], 1u);
  counters.reset();
  EXPECT_EQ(counters.total()[1].reached, 0u);
}

// Retrieval in a catalog built to take long.
#include <gtest/gtest.h>

#include <atomic>

#include "base/status.hpp"
#include "bundle/bundle.hpp"
#include "bundles.hpp"
#include "prompt/retrieval.hpp"

using namespace rexit::core;

namespace {

// tests/damage/tables.py describes it.
TEST(Retrieval, EveryLongSearchEndsOnceTheCallIsCancelled) {
  const Bundle bundle(open_source(bundles() + "/likes_without_end/bundle"), nullptr);
  const std::atomic<bool> cancelled{true};
  const Deadline deadline({}, 0, &cancelled);
  Query query;
  Retrieval retrieval(bundle.catalog());
  const auto ends = [&](Row user, const auto& look) {
    query.user = user;
    retrieval.begin(query, deadline);
    try {
      look();
      return false;
    } catch (const Error& error) {
      return error.status() == REXIT_CANCELLED;
    }
  };
  EXPECT_TRUE(ends(2, [&] { retrieval.similar_liked(4); }));
  EXPECT_TRUE(ends(3, [&] { retrieval.nearest(1, 2); }));
  EXPECT_TRUE(ends(3, [&] { retrieval.history_likes(); }));
}

}  // namespace

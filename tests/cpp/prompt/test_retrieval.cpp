// Retrieval in a catalog built to take long.
#include <gtest/gtest.h>

#include <atomic>

#include "base/status.hpp"
#include "bundle/bundle.hpp"
#include "bundles.hpp"
#include "prompt/retrieval.hpp"
#include "refused.hpp"

using namespace rexit::core;

namespace {

// tests/damage/tables.py describes it.
TEST(Retrieval, EveryLongSearchEndsOnceTheCallIsCancelled) {
  const Bundle bundle(bundles() + "/likes_without_end/bundle", nullptr);
  const std::atomic<bool> cancelled{true};
  const Deadline deadline({}, 0, &cancelled);
  Query query;
  Retrieval retrieval(bundle.catalog());
  const auto expect_end = [&](Row user, const auto& look) {
    query.user = user;
    retrieval.begin(query, deadline);
    refused<Error>(look, REXIT_CANCELLED, "cancelled");
  };
  expect_end(2, [&] { retrieval.similar_liked(4); });
  expect_end(3, [&] { retrieval.nearest(1, 2); });
  expect_end(3, [&] { retrieval.history_likes(); });
  query.retrieve = 2;
  refused<Error>([&] { retrieval.begin(query, deadline); }, REXIT_CANCELLED, "cancelled");
}

}  // namespace

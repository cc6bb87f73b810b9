// rexit_session_audit over the real backend: what is scored again is the request as it was, at full depth.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

constexpr float never = std::numeric_limits<float>::infinity();

const std::vector<rexit::Id> items = {std::int64_t{-7}, std::int64_t{3}, std::int64_t{8}, std::int64_t{18}, std::int64_t{88}};

rexit::Bundle open(const std::string& name) { return rexit::Bundle(bundles() + "/" + name + "/bundle"); }

// Some candidates stop at every exit.
rexit::Policy early() { return {{0.5f, 0.2f, never}, {0.5f, 0.2f, never}, 1}; }

rexit::Request request() {
  rexit::Request request(std::int64_t{106});
  request.items(items).recent({std::int64_t{13}, std::int64_t{3}}, {1, 0}).as_of(40).policy(early());
  return request;
}

rexit::Session audited(const rexit::Bundle& bundle, double share = 1, std::uint64_t seed = 1) {
  return rexit::Session(bundle, 0, 0, share, seed);
}

float sigmoid(float c, float prior_shift) {
  return static_cast<float>(1 / (1 + std::exp(-(static_cast<double>(c) + static_cast<double>(prior_shift)))));
}

// `full`: the same request with force_exit at the last exit, in the same session.
void expect_full_depth(const rexit::Bundle& bundle, const rexit::Audit& audit, const rexit::Scores& policy,
                       const rexit::Scores& full) {
  ASSERT_EQ(audit.exits.size(), full.scores.size());
  for (std::size_t i = 0; i < full.scores.size() && bundle.info().objectives == 1; ++i)  // else they are no sigmoid of c
    EXPECT_FLOAT_EQ(sigmoid(audit.full_c[i], bundle.info().prior_shift), full.scores[i].probability) << i;
  for (const rexit_score& score : policy.scores) EXPECT_EQ(audit.exits[score.item], score.exit);
}

// A request that comes between the decision to audit and the audit's beginning must not wait for all of it.
TEST(Audit, ACancellationBeforeItsBeginningEndsIt) {
  const rexit::Bundle bundle = open("sound");
  rexit::Session session = audited(bundle);
  ASSERT_EQ(session.score(request()).stats.draw, REXIT_DRAWN);
  session.cancel();
  refused([&] { session.audit(); }, REXIT_CANCELLED, "cancelled");
  EXPECT_EQ(session.audit().exits.size(), items.size());
}

class AuditOf : public testing::TestWithParam<const char*> {};

TEST_P(AuditOf, FullDepthIsThatOfTheSameRequest) {
  const rexit::Bundle bundle = open(GetParam());
  rexit::Session session = audited(bundle);
  const rexit::Scores policy = session.score(request());
  ASSERT_EQ(policy.stats.draw, REXIT_DRAWN);
  const rexit::Audit audit = session.audit();
  const rexit::Scores full = session.score(request().force_exit(2));
  expect_full_depth(bundle, audit, policy, full);
  if (bundle.info().objectives != 1) return;  // their probability is not a sigmoid of c
  for (std::size_t i = 0; i < items.size(); ++i)
    EXPECT_FLOAT_EQ(sigmoid(audit.policy_c[i], bundle.info().prior_shift), policy.scores[i].probability);
}

INSTANTIATE_TEST_SUITE_P(Bundles, AuditOf,
                         testing::Values("sound", "sound_with_vectors", "sound_with_start", "policy_that_reads_earlier_heads",
                                         "policy_with_a_utility"));

TEST(Audit, TheSameSeedDrawsTheSameSlates) {
  const rexit::Bundle bundle = open("sound");
  const auto draws = [&](double share, std::uint64_t seed) {
    rexit::Session session = audited(bundle, share, seed);
    std::vector<bool> drawn;
    for (int n = 0; n < 40; ++n)
      drawn.push_back(session.score(rexit::Request(std::int64_t{100}).items({items[0]}).policy(early())).stats.draw != 0);
    return drawn;
  };
  EXPECT_EQ(draws(0.5, 3), draws(0.5, 3));
  EXPECT_NE(draws(0.5, 3), draws(0.5, 4));
  EXPECT_NE(draws(0.5, 0), draws(0.5, 0)) << "by chance once in 10^12";
  EXPECT_EQ(draws(0, 3), std::vector<bool>(40, false));
}

}  // namespace

// The stopping rule's parts.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <thread>

#include "bundle/bundle.hpp"
#include "bundle/policy.hpp"
#include "bundles.hpp"
#include "files/sha256.hpp"
#include "tar.hpp"

using namespace rexit::core;

// While `rexit calibrate` replaces policy.json, time after time.
TEST(Policy, ItsDigestIsOfTheBytesThatWereParsed) {
  tar::Folder folder(tar::files_of(bundles() + "/policy_that_reads_earlier_heads/bundle"));
  const std::string path = folder.path() + "/variants/cpu-fp32/policy.json", before = path + ".new";
  std::string policies[2], digests[2];
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {}), patience = "\"patience\": ";
  for (int n = 0; n < 2; ++n) {
    policies[n] = text;
    policies[n].replace(text.find(patience) + patience.size(), 1, std::to_string(n + 1));
    digests[n] = sha256(reinterpret_cast<const unsigned char*>(policies[n].data()), policies[n].size());
  }
  std::atomic<bool> done{false};
  std::thread calibrate([&] {
    for (int n = 0; !done; n = 1 - n) {
      std::ofstream(before, std::ios::binary) << policies[n];
      std::filesystem::rename(before, path);
    }
  });
  std::set<std::size_t> patiences;
  for (int n = 0; n < 200; ++n) {
    const Bundle bundle(folder.path(), nullptr);
    patiences.insert(bundle.policy().patience);
    EXPECT_EQ(bundle.policy_sha256(), digests[bundle.policy().patience - 1]);
  }
  done = true;
  calibrate.join();
  EXPECT_EQ(patiences.size(), 2u);  // it was replaced meanwhile
}

TEST(Policy, ThresholdsAreInclusive) {
  const ExitRule rule{1, 0, 2, 3};
  EXPECT_TRUE(rule.confident(2));
  EXPECT_TRUE(rule.confident(-3));
  EXPECT_FALSE(rule.confident(1.9f));
  EXPECT_FALSE(rule.confident(-2.9f));
}

TEST(Policy, InfinityNeverStops) {
  const ExitRule rule;
  EXPECT_FALSE(rule.confident(1e38f));
  EXPECT_FALSE(rule.confident(-1e38f));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(rule.confident(infinity));
  EXPECT_FALSE(rule.confident(-infinity));
  EXPECT_TRUE((ExitRule{1, 0, 2, infinity}.confident(infinity)));
  EXPECT_FALSE((ExitRule{1, 0, 2, infinity}.confident(-infinity)));
}

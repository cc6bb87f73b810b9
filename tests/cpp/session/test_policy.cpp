// The stopping rule's parts.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "bundle/policy.hpp"
#include "bundles.hpp"
#include "files/sha256.hpp"
#include "files/sources/source.hpp"

using namespace rexit::core;

namespace {

// A bundle whose policy.json is replaced after every read: the patience grows.
class Recalibrated final : public Source {
 public:
  explicit Recalibrated(const std::string& path) : Source(path), bundle_(open_source(path)) {}

  bool has(const std::string& path) const override { return bundle_->has(path); }
  void check_file(const std::string& path, std::size_t bytes) const override { bundle_->check_file(path, bytes); }
  std::vector<std::string> folders(const std::string& path) const override { return bundle_->folders(path); }
  File open(const std::string& path) const override {
    File file = bundle_->open(path);
    if (path.find("policy.json") == std::string::npos) return file;
    std::string text(reinterpret_cast<const char*>(file.data()), file.size());
    const std::string patience = "\"patience\": ";
    text.replace(text.find(patience) + patience.size(), 1, std::to_string(policies.size() + 1));
    policies.push_back(std::make_unique<const std::string>(text));
    return File(where(path), reinterpret_cast<const unsigned char*>(policies.back()->data()), text.size());
  }

  mutable std::vector<std::unique_ptr<const std::string>> policies;

 private:
  std::shared_ptr<const Source> bundle_;
};

}  // namespace

TEST(Policy, ItsDigestIsOfTheBytesThatWereParsed) {
  const auto source = std::make_shared<const Recalibrated>(bundles() + "/policy_that_reads_earlier_heads/bundle");
  const Bundle bundle(source, nullptr);
  const std::string& parsed = *source->policies.at(bundle.policy().patience - 1);
  EXPECT_EQ(bundle.policy_sha256(), sha256(reinterpret_cast<const unsigned char*>(parsed.data()), parsed.size()));
  EXPECT_TRUE(bundle.changed());
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

// Execution providers by name. The tests' ONNX Runtime has AZURE beside the CPU's: it takes no operator of these graphs.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

const rexit::Request request = rexit::Request(std::int64_t{106}).items({std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}});

rexit::BundleOptions with(const std::string& provider) {
  rexit::BundleOptions options;
  options.provider = provider;
  return options;
}

TEST(Providers, OperatorsThatTheProviderDoesNotHaveRunOnTheCpu) {
  rexit::BundleOptions options = with("AZURE");
  const std::vector<float> expected = rexit::Session(rexit::Bundle(sound_bundle())).trace(request).log_odds;
  EXPECT_EQ(rexit::Session(rexit::Bundle(sound_bundle(), options)).trace(request).log_odds, expected);
  options.device = "cpu";
  EXPECT_EQ(rexit::Session(rexit::Bundle(sound_bundle(), options)).trace(request).log_odds, expected);
}

TEST(Providers, AMissingOneIsNamedWithThoseThatAreThere) {
  std::string message;
  EXPECT_EQ(status_of(sound_bundle(), with("QNN"), message), REXIT_BACKEND_MISSING);
  EXPECT_EQ(message.find("provider `QNN`: "), 0u) << message;
  EXPECT_NE(message.find("; this ONNX Runtime has "), std::string::npos) << message;
  EXPECT_NE(message.find("CPUExecutionProvider"), std::string::npos) << message;
}

TEST(Providers, OptionsThatContradictAreRefused) {
  std::string message;
  rexit::BundleOptions options = with("AZURE");
  options.device = "cuda";
  EXPECT_EQ(status_of(sound_bundle(), options, message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(
      message,
      "options.provider is `AZURE` and options.device `cuda`: a provider takes the device's place, expected no device or cpu");
  options = with("");
  options.provider_options = {{"key", "value"}};
  EXPECT_EQ(status_of(sound_bundle(), options, message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(message, "options.provider_option_count is 1 without options.provider");
}

TEST(Providers, OptionsOfTheCAreChecked) {
  rexit_bundle_options options{};
  rexit_bundle* bundle = nullptr;
  options.struct_size = sizeof options;
  options.provider = "AZURE";
  options.provider_option_count = 2;
  const char* const keys[] = {"key", nullptr};
  const char* const values[] = {"value", "value"};
  EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), &options, &bundle), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "options.provider_keys or options.provider_values: number 0 of 2 is NULL");
  options.provider_keys = keys;
  options.provider_values = values;
  EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), &options, &bundle), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "options.provider_keys or options.provider_values: number 1 of 2 is NULL");
  options.provider_option_count = 0;
  options.own_threads = 2;
  EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), &options, &bundle), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "options.own_threads is 2, expected 0 or 1");
  options.own_threads = 0;
  options.spinning = 3;
  EXPECT_EQ(rexit_bundle_open(sound_bundle().c_str(), &options, &bundle), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "options.spinning is 3, expected a rexit_spinning, 0 to 2");
  EXPECT_EQ(bundle, nullptr);
}

}  // namespace

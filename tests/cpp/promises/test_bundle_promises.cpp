// What rexit.h promises of bundles, opened and described.
#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "opening.hpp"
#include "promises/promises.hpp"
#include "rexit/rexit.hpp"

namespace {

rexit_status opens(const rexit_bundle_options& options) {
  rexit_bundle* opened = nullptr;
  const rexit_status status = rexit_bundle_open(sound_bundle().c_str(), &options, &opened);
  rexit_bundle_close(opened);
  return status;
}

TEST_F(Promises, ThePoolHasAThreadForEachCore) {
  cpu_set_t cores;
  ASSERT_EQ(::sched_getaffinity(0, sizeof cores, &cores), 0);
  rexit_bundle_options options{};
  options.threads = CPU_COUNT(&cores);
  EXPECT_EQ(opens(options), REXIT_OK) << rexit_last_error();
  ++options.threads;
  EXPECT_EQ(opens(options), REXIT_INVALID_ARGUMENT);
}

TEST_F(Promises, TheCpuHasNoDeviceNumber) {
  rexit_bundle_options options{};
  options.device_id = 7;
  EXPECT_EQ(opens(options), REXIT_OK) << rexit_last_error();
}

// tests/damage/policies.py: its third exit reads the heads of the first two.
TEST_F(Promises, EarlierHeadsOutliveTheCall) {
  const rexit::Bundle opened(bundles() + "/policy_that_reads_earlier_heads/bundle");
  const rexit_exit_info first = opened.exit(0), second = opened.exit(1), third = opened.exit(2);
  rexit::Session(opened).warm_up();
  EXPECT_EQ(first.earlier, nullptr);
  EXPECT_EQ(second.earlier[0], 0.0f);
  EXPECT_EQ(third.a, -1.0f);
  EXPECT_EQ(third.earlier[0], 0.5f);
  EXPECT_EQ(third.earlier[1], -0.25f);
}

TEST(Options, OfProvidersThatContradictAreRefused) {
  std::string message;
  rexit::BundleOptions options;
  options.provider = "AZURE";
  options.device = "cuda";
  EXPECT_EQ(status_of(sound_bundle(), options, message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(
      message,
      "options.provider is `AZURE` and options.device `cuda`: a provider takes the device's place, expected no device or cpu");
  options = {};
  options.provider_options = {{"key", "value"}};
  EXPECT_EQ(status_of(sound_bundle(), options, message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(message, "options.provider_option_count is 1 without options.provider");
}

TEST(Options, AreChecked) {
  rexit_bundle_options options{};
  options.provider = "AZURE";
  options.provider_option_count = 2;
  const char* const keys[] = {"key", nullptr};
  const char* const values[] = {"value", "value"};
  EXPECT_EQ(opens(options), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "options.provider_keys or options.provider_values: number 0 of 2 is NULL");
  options.provider_keys = keys;
  options.provider_values = values;
  EXPECT_EQ(opens(options), REXIT_INVALID_ARGUMENT);
  EXPECT_STREQ(rexit_last_error(), "options.provider_keys or options.provider_values: number 1 of 2 is NULL");
}

int with_library_of(const char* environment) {
  if (environment != nullptr) {
    ::setenv("REXIT_ONNXRUNTIME_LIBRARY", environment, 1);
  } else {
    ::unsetenv("REXIT_ONNXRUNTIME_LIBRARY");
  }
  const rexit_status status = opens({});
  const std::string said = status == REXIT_OK ? "" : rexit_last_error();
  if (environment != nullptr) return status == REXIT_BACKEND_MISSING && said.find(environment) != std::string::npos ? 0 : 1;
  // Where the system has one, it may be too old for rexit.
  return said.empty() || (status == REXIT_BACKEND_MISSING && said.find("cannot open") == std::string::npos) ||
                 said.find("libonnxruntime.so: cannot open") != std::string::npos
             ? 0
             : 1;
}

// In processes that have not loaded it: GoogleTest runs death tests first.
TEST(BundlesDeathTest, TheLibraryIsThatOfTheEnvironmentOrTheSystems) {
  EXPECT_EXIT(std::exit(with_library_of("/nowhere/libmine.so")), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::exit(with_library_of(nullptr)), testing::ExitedWithCode(0), "");
}

std::size_t mappings(const std::string& name) {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(name) != std::string::npos ? 1 : 0;
  return count;
}

TEST_F(Promises, SessionsShareTheMappedCatalogAndTheWeights) {
  trace(request);
  const char* const table = "/sound/bundle/catalog/users.safetensors";
  const char* const weights = "/sound/bundle/variants/cpu-fp32/segment-0.onnx.data";
  EXPECT_EQ(mappings(table), 1u);
  const std::size_t mapped = mappings(weights);
  EXPECT_GT(mapped, 0u);
  rexit_session* others[3];
  for (rexit_session*& other : others) {
    ASSERT_EQ(rexit_session_create(bundle, nullptr, &other), REXIT_OK);
    EXPECT_EQ(score(request, other), REXIT_OK);
  }
  EXPECT_EQ(mappings(table), 1u);
  EXPECT_EQ(mappings(weights), mapped);
  for (rexit_session* other : others) rexit_session_destroy(other);
}

}  // namespace

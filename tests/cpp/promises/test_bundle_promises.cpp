// What rexit.h promises of bundles, opened and described.
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "promises/promises.hpp"
#include "rexit/rexit.hpp"

namespace {

rexit_status opens(const rexit_bundle_options& options) {
  rexit_bundle* opened = nullptr;
  const rexit_status status = rexit_bundle_open(sound_bundle().c_str(), &options, &opened);
  rexit_bundle_close(opened);
  return status;
}

TEST_F(Promises, AnotherThreadPoolSizeIsRefusedAndTheLibraryIsLoadedOnce) {
  rexit_bundle_options options = sized<rexit_bundle_options>();
  options.threads = 61;
  EXPECT_EQ(opens(options), REXIT_INVALID_ARGUMENT);
  options.threads = 0;
  options.onnxruntime_library = "/nowhere/libonnxruntime.so";
  EXPECT_EQ(opens(options), REXIT_OK) << rexit_last_error();
}

TEST_F(Promises, ThePoolHasAThreadForEachCore) {
  cpu_set_t cores;
  ASSERT_EQ(::sched_getaffinity(0, sizeof cores, &cores), 0);
  rexit_bundle_options options = sized<rexit_bundle_options>();
  options.threads = CPU_COUNT(&cores);
  EXPECT_EQ(opens(options), REXIT_OK) << rexit_last_error();
  ++options.threads;
  EXPECT_EQ(opens(options), REXIT_INVALID_ARGUMENT);
}

TEST_F(Promises, TheCpuHasNoDeviceNumber) {
  rexit_bundle_options options = sized<rexit_bundle_options>();
  options.device_id = 7;
  EXPECT_EQ(opens(options), REXIT_OK) << rexit_last_error();
}

TEST_F(Promises, TheVariantIsTheFirstAndItsNameOutlivesTheCall) {
  rexit_bundle_info info = sized<rexit_bundle_info>();
  ASSERT_EQ(rexit_bundle_get_info(bundle, &info), REXIT_OK);
  trace(request);
  EXPECT_STREQ(info.variant, "cpu-fp32");
}

TEST_F(Promises, EarlierHeadsAreNullWithoutAny) {
  for (std::size_t k = 0; k < 3; ++k) {
    rexit_exit_info exit = sized<rexit_exit_info>();
    ASSERT_EQ(rexit_bundle_get_exit(bundle, k, &exit), REXIT_OK);
    EXPECT_EQ(exit.earlier, nullptr);
  }
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

TEST(Variants, AreOpenedByNameOrTheFirstIs) {
  const std::string folder = tensorrt_bundles() + "/sound/bundle";
  rexit::BundleOptions options;
  EXPECT_STREQ(rexit::Bundle(folder).info().variant, "cpu-fp32");
  options.device = "cpu";
  for (const char* name : {"tensorrt-fp16", "cpu-fp32"}) {
    options.variant = name;
    EXPECT_STREQ(rexit::Bundle(folder, options).info().variant, name);
  }
}

TEST(Variants, AreDescribedByTheirNumber) {
  const std::string folder = tensorrt_bundles() + "/sound/bundle";
  rexit_variant_info info = sized<rexit_variant_info>();
  std::size_t index = 0;
  for (const char* name : {"cpu-fp32", "tensorrt-fp16"}) {
    ASSERT_EQ(rexit_bundle_get_variant(folder.c_str(), index++, &info), REXIT_OK) << rexit_last_error();
    EXPECT_STREQ(info.name, name);
    EXPECT_EQ(std::string(info.target) + "-" + info.precision, name);
    EXPECT_EQ(info.variant_count, 2u);
  }
}

TEST(Variants, TellTheirPolicy) {
  const std::string folder = bundles() + "/policy_with_rules_of_the_slate/bundle";  // see tests/damage/policies.py
  EXPECT_EQ(rexit::variants(folder)[0].calibrated, 1);
  const rexit_bundle_info info = rexit::Bundle(folder).info();
  EXPECT_EQ(info.calibrated, 1);
  EXPECT_EQ(info.top_k, 2u);
  EXPECT_EQ(info.ordered, 1);
  EXPECT_EQ(info.quorum, 0.1f);
}

int with_library_of(const char* environment) {
  if (environment != nullptr) {
    ::setenv("REXIT_ONNXRUNTIME_LIBRARY", environment, 1);
  } else {
    ::unsetenv("REXIT_ONNXRUNTIME_LIBRARY");
  }
  const rexit_status status = opens(sized<rexit_bundle_options>());
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
  const std::size_t weights = memory().weights;
  const char* const table = "/sound/bundle/catalog/users.safetensors";
  EXPECT_EQ(mappings(table), 1u);
  rexit_session* others[3];
  rexit_score scores[3];
  for (rexit_session*& other : others) {
    ASSERT_EQ(rexit_session_create(bundle, nullptr, &other), REXIT_OK);
    EXPECT_EQ(rexit_session_score(other, &request, scores, nullptr), REXIT_OK);
  }
  EXPECT_EQ(mappings(table), 1u);
  EXPECT_EQ(memory().weights, weights);
  for (rexit_session* other : others) rexit_session_destroy(other);
}

TEST_F(Promises, WeightsAreKeptAsLongAsTheirBundleIsOpenUnlessTheyAreMapped) {
  const std::size_t weights = memory().weights;
  EXPECT_GT(weights, 0u);
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(sound_bundle() + "/variants/cpu-fp32"))
    if (file.path().extension() == ".data") files += file.file_size();
  EXPECT_LT(weights, files);
  EXPECT_GT(mappings("/sound/bundle/variants/cpu-fp32/segment-0.onnx.data"), 0u);
  rexit_bundle* second = nullptr;
  ASSERT_EQ(rexit_bundle_open(sound_bundle().c_str(), nullptr, &second), REXIT_OK);
  EXPECT_EQ(memory().weights, 2 * weights);
  rexit_bundle_close(second);
  EXPECT_EQ(memory().weights, weights);
}

TEST_F(Promises, IntegerIdsWriteNoText) {
  std::int64_t number = 0;
  char text[] = "as it was";
  std::size_t length = 77;
  for (std::size_t index = 0; index < 3; ++index) {
    ASSERT_EQ(rexit_bundle_get_id(bundle, REXIT_ITEMS, index, &number, text, sizeof text, &length), REXIT_OK);
    EXPECT_EQ(number, -7 + 5 * static_cast<std::int64_t>(index));
  }
  EXPECT_STREQ(text, "as it was");
  EXPECT_EQ(length, 77u);
  ASSERT_EQ(rexit_bundle_get_id(bundle, REXIT_USERS, 2, &number, nullptr, 0, nullptr), REXIT_OK);
  EXPECT_EQ(number, 106);
}

// Those of sound_with_string_ids in tests/damage/tables.py, where some begin with a capital letter.
class StringIds : public testing::Test {
 protected:
  const rexit::Bundle bundle{bundles() + "/sound_with_string_ids/bundle"};

  std::string id(std::size_t index) const {
    std::size_t length = 0;
    EXPECT_EQ(rexit_bundle_get_id(bundle.get(), REXIT_ITEMS, index, nullptr, nullptr, 0, &length), REXIT_OK);
    std::string text(length + 1, '?');
    EXPECT_EQ(rexit_bundle_get_id(bundle.get(), REXIT_ITEMS, index, nullptr, text.data(), text.size(), &length), REXIT_OK);
    EXPECT_EQ(text.back(), '\0');
    text.pop_back();
    return text;
  }
};

TEST_F(StringIds, AreWrittenIfTheyFit) {
  const std::string expected =
      "Z-\xc3\xbc"
      "0001";
  std::int64_t number = 77;
  std::size_t length = 0;
  std::string text(expected.size() + 2, '?');
  const auto get = [&](std::size_t capacity) {
    return rexit_bundle_get_id(bundle.get(), REXIT_ITEMS, 0, &number, text.data(), capacity, &length);
  };
  ASSERT_EQ(get(expected.size()), REXIT_OK);  // no room for the NUL
  EXPECT_EQ(length, expected.size());
  EXPECT_EQ(text, std::string(text.size(), '?'));
  length = 0;
  ASSERT_EQ(get(expected.size() + 1), REXIT_OK);
  EXPECT_EQ(length, expected.size());
  EXPECT_EQ(text, expected + '\0' + '?');
  EXPECT_EQ(number, 77);
  EXPECT_EQ(bundle.info().string_user_ids, 1);
  EXPECT_EQ(bundle.info().string_item_ids, 1);
}

TEST_F(StringIds, AscendByTheirBytes) {
  std::vector<std::string> all;
  for (std::size_t index = 0; index < bundle.info().items; ++index) all.push_back(id(index));
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  EXPECT_EQ(all.front()[0], 'Z');
  EXPECT_EQ(all.back()[0], 'a');
  for (const std::string& id : all) EXPECT_EQ(id.substr(1, 3), "-\xc3\xbc");
}

TEST_F(StringIds, AreFoundByText) {
  rexit::Session session(bundle);
  EXPECT_EQ(session.score(rexit::Request(std::string("nobody")).items({id(3), id(0)})).scores.size(), 2u);
  EXPECT_THROW(session.score(rexit::Request(std::string("nobody")).items({std::int64_t{-7}})), rexit::Error);
}

}  // namespace

// engine.json as specified in docs/format.md, sound and damaged.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/status.hpp"
#include "bundle/engines.hpp"
#include "bundles.hpp"

using namespace rexit::core;

namespace {

const Accelerator orin{"8.7", "10.3.0"};
constexpr const char* variant = "tensorrt-fp16";

std::string folder(const std::string& name) { return tensorrt_bundles() + "/" + name + "/bundle"; }

TEST(Engines, NoneIsOverlookedInAFullFolder) {
  namespace fs = std::filesystem;
  const fs::path copy = fs::temp_directory_path() / ("rexit-engines-" + std::to_string(::getpid()));
  fs::copy(folder("sound"), copy, fs::copy_options::recursive);
  const Bundle bundle(open_source(copy.string()), variant);
  for (int n = 0; n < 1000; ++n) std::ofstream(copy / bundle.variant().folder / "engines" / std::to_string(n));
  try {
    engine_folders(bundle);
    ADD_FAILURE() << "some of 1,001 entries";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), REXIT_CORRUPT);
    EXPECT_NE(std::string(error.what()).find("engines: has more than 1000 entries"), std::string::npos) << error.what();
  }
  fs::remove_all(copy);
}

TEST(Engines, ValidEnginesAreRead) {
  const Bundle bundle(open_source(folder("sound")), variant);
  const std::vector<Plan> plans = find_engines(bundle, orin);
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[1].path, bundle.where(bundle.variant().folder) + "/engines/sm87-trt10.3.0/segment-1.plan");
  ASSERT_EQ(plans[2].profiles.size(), 2u);
  const OptimizationProfile &empty = plans[2].profiles[0], &behind = plans[2].profiles[1];
  EXPECT_EQ(empty.tokens.min, 1u);
  EXPECT_EQ(empty.tokens.max, 60u);
  EXPECT_EQ(empty.prefix.min, 1u);  // a row of padding
  EXPECT_EQ(empty.prefix.max, 1u);
  EXPECT_EQ(behind.prefix.min, 1u);
  EXPECT_EQ(behind.rows.max, 60u);
}

TEST(Engines, TheMessageNamesTheGpuTheVersionAndTheCommand) {
  const Bundle bundle(open_source(folder("sound")), variant);
  try {
    find_engines(bundle, {"11.0", "10.13.3"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), REXIT_NOT_FOUND);
    EXPECT_EQ(std::string(error.what()),
              "variant `tensorrt-fp16` has no engine for compute capability 11.0 and TensorRT 10.13.3 (sm110-trt10.13.3), it has "
              "sm87-trt10.3.0; run `rexit compile " +
                  folder("sound") + " --variant tensorrt-fp16`");
  }
}

// A compiler that reports its build number, as `tensorrt.__version__` does in some releases.
TEST(Engines, ABuildNumberIsNotAnotherVersion) {
  const std::string copy = testing::TempDir() + "rexit-build-number";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(folder("sound"), copy, std::filesystem::copy_options::recursive);
  const Bundle bundle(open_source(copy), variant);
  const std::string engines = bundle.where(bundle.variant().folder) + "/engines/";
  std::filesystem::rename(engines + "sm87-trt10.3.0", engines + "sm87-trt10.3.0.30");
  std::ifstream file(engines + "sm87-trt10.3.0.30/engine.json");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  text.replace(text.find("10.3.0\""), 6, "10.3.0.30");
  std::ofstream(engines + "sm87-trt10.3.0.30/engine.json", std::ios::trunc) << text;
  EXPECT_EQ(find_engines(bundle, orin)[0].path, engines + "sm87-trt10.3.0.30/segment-0.plan");
  EXPECT_THROW(find_engines(bundle, {"8.7", "10.3.3"}), Error);
  std::filesystem::remove_all(copy);
}

}  // namespace

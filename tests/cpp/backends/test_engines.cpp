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
#include "refused.hpp"

using namespace rexit::core;

namespace {

const Accelerator orin{"8.7", "10.3.0"};
constexpr const char* variant = "tensorrt-fp16";

std::string folder(const std::string& name) { return tensorrt_bundles() + "/" + name + "/bundle"; }

TEST(Engines, NoneIsOverlookedInAFullFolder) {
  namespace fs = std::filesystem;
  const fs::path copy = fs::temp_directory_path() / ("rexit-engines-" + std::to_string(::getpid()));
  fs::copy(folder("sound"), copy, fs::copy_options::recursive);
  const Bundle bundle(copy.string(), variant);
  for (int n = 0; n < 1000; ++n) std::ofstream(copy / bundle.variant().folder / "engines" / std::to_string(n));
  refused<Error>([&] { engine_folders(bundle); }, REXIT_CORRUPT, "engines: has more than 1000 entries");
  fs::remove_all(copy);
}

// A compiler that reports its build number, as `tensorrt.__version__` does in some releases.
TEST(Engines, ABuildNumberIsNotAnotherVersion) {
  const std::string copy = testing::TempDir() + "rexit-build-number";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(folder("sound"), copy, std::filesystem::copy_options::recursive);
  const Bundle bundle(copy, variant);
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

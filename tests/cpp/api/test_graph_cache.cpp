// rexit_bundle_options.graph_cache.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace fs = std::filesystem;

namespace {

const rexit::Request request = rexit::Request(std::int64_t{106}).items({std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}});

class GraphCache : public testing::Test {
 protected:
  GraphCache() {
    fs::remove_all(folder);
    fs::create_directories(folder);
    fs::copy(sound_bundle(), bundle, fs::copy_options::recursive);
    rexit_set_log(
        [](void* lines, rexit_log_level, const char* line) { static_cast<std::vector<std::string>*>(lines)->push_back(line); },
        &warnings, REXIT_LOG_WARNING);
  }
  ~GraphCache() override {
    rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
    fs::remove_all(folder);
  }

  std::vector<float> trace(const std::string& graph_cache) const {
    rexit::BundleOptions options;
    options.graph_cache = graph_cache;
    return rexit::Session(rexit::Bundle(bundle, options)).trace(request).log_odds;
  }
  std::vector<fs::path> entries() const {
    std::vector<fs::path> paths;
    for (const fs::directory_entry& entry : fs::directory_iterator(cache)) paths.push_back(entry.path());
    return paths;
  }
  // The size stays, which opening checks.
  void spoil_graphs() const {
    for (const fs::directory_entry& file : fs::recursive_directory_iterator(bundle + "/variants")) {
      if (file.path().extension() != ".onnx") continue;
      const std::string damage(file.file_size(), '\xff');
      std::ofstream(file.path()) << damage;
    }
  }

  const std::string folder = testing::TempDir() + "rexit-graph-cache", bundle = folder + "/bundle", cache = folder + "/a/cache";
  std::vector<std::string> warnings;
};

TEST_F(GraphCache, LaterOpensLoadTheOptimizedGraphs) {
  const std::vector<float> expected = trace("");
  EXPECT_EQ(trace(cache), expected);
  ASSERT_EQ(entries().size(), 1u);
  for (const char* name : {"segment-0.onnx", "segment-1.onnx", "segment-2.onnx"})
    EXPECT_TRUE(fs::exists(entries()[0] / name)) << name;
  spoil_graphs();
  EXPECT_THROW(trace(""), rexit::Error);
  EXPECT_EQ(trace(cache), expected);
  EXPECT_EQ(warnings, std::vector<std::string>());
}

TEST_F(GraphCache, ADamagedEntryIsWrittenAgain) {
  const std::vector<float> expected = trace(cache);
  const fs::path graph = entries().at(0) / "segment-1.onnx";
  const auto size = fs::file_size(graph);
  fs::resize_file(graph, size / 2);
  EXPECT_EQ(trace(cache), expected);
  ASSERT_EQ(warnings.size(), 1u) << testing::PrintToString(warnings);
  EXPECT_NE(warnings[0].find("cannot be loaded and is written again"), std::string::npos) << warnings[0];
  EXPECT_EQ(fs::file_size(graph), size);
}

TEST_F(GraphCache, AnEntryBelongsToAVariant) {
  const std::string folder_of_two = tensorrt_bundles() + "/sound/bundle";
  rexit::BundleOptions options;
  options.graph_cache = cache;
  options.device = "cpu";
  std::vector<float> log_odds[2][2];
  for (const int round : {0, 1}) {
    for (const int v : {0, 1}) {
      options.variant = v == 0 ? "cpu-fp32" : "tensorrt-fp16";
      log_odds[round][v] = rexit::Session(rexit::Bundle(folder_of_two, options)).trace(request).log_odds;
      EXPECT_EQ(entries().size(), round == 0 ? v + 1u : 2u);
    }
  }
  EXPECT_EQ(log_odds[0][0], log_odds[1][0]);
  EXPECT_EQ(log_odds[0][1], log_odds[1][1]);
  EXPECT_NE(log_odds[0][0], log_odds[0][1]);
}

TEST_F(GraphCache, ThatCannotBeWrittenIsAWarning) {
  std::ofstream(folder + "/file") << "";
  EXPECT_EQ(trace(folder + "/file/cache"), trace(""));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("cannot be written, so graphs are optimized again at the next open: Not a directory"),
            std::string::npos)
      << warnings[0];
}

TEST_F(GraphCache, IsForTheCpu) {
  rexit::BundleOptions options;
  options.graph_cache = cache;
  options.provider = "AZURE";
  try {
    const rexit::Bundle opened(bundle, options);
    FAIL();
  } catch (const rexit::Error& error) {
    EXPECT_EQ(error.status(), REXIT_INVALID_ARGUMENT);
    EXPECT_STREQ(error.what(), "options.graph_cache is for device `cpu` without a provider, this is provider `AZURE`");
  }
}

}  // namespace

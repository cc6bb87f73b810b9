// A bundle whose folder changes while it is open is reloaded with its loaded segments.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

namespace fs = std::filesystem;

class ReloadTest : public testing::Test {
 protected:
  ReloadTest() : folder_(fs::temp_directory_path() / ("rexit-reload-" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
    fs::copy(sound_bundle(), folder_, fs::copy_options::recursive);
  }
  ~ReloadTest() override { fs::remove_all(folder_); }

  std::string path() const { return folder_; }

  // The same file with `to` in the place of `from`, by rename as a refresh does it.
  void replace(const char* name, const std::string& from, const std::string& to) const {
    std::ostringstream read;
    read << std::ifstream(folder_ / name).rdbuf();
    std::string text = read.str();
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    std::ofstream(folder_ / ".new") << text.replace(at, from.size(), to);
    fs::rename(folder_ / ".new", folder_ / name);
  }
  // The same manifest with another digest, or with `to` in the place of `from`, too.
  void replace_manifest(const std::string& from = {}, const std::string& to = {}) const {
    if (!from.empty()) replace("manifest.json", from, to);
    replace("manifest.json", "{", "{\n");
  }

  const rexit::Request request_ = rexit::Request(std::int64_t{106}).items({std::int64_t{8}, std::int64_t{3}});

 private:
  fs::path folder_;
};

// In this process.
std::size_t mappings_of_weights() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("segment-0.onnx.data") != std::string::npos ? 1 : 0;
  return count;
}

TEST_F(ReloadTest, OldAndNewServeSideBySide) {
  std::optional<rexit::Bundle> opened(path());
  EXPECT_FALSE(opened->reloaded());
  rexit::Session old(*opened);
  const float before = old.score(request_).scores[0].log_odds;
  const std::size_t weights = mappings_of_weights();
  EXPECT_GT(weights, 0u);
  replace_manifest();
  std::optional<rexit::Bundle> next = opened->reloaded();
  ASSERT_TRUE(next);
  EXPECT_NE(next->get(), opened->get());
  EXPECT_FALSE(next->reloaded());
  rexit::Session session(*next);
  EXPECT_EQ(session.score(request_).scores[0].log_odds, before);
  EXPECT_EQ(mappings_of_weights(), weights);
  old = rexit::Session(*next);
  opened.reset();  // the segments stay
  EXPECT_EQ(session.score(request_).scores[0].log_odds, before);
}

TEST_F(ReloadTest, NewSessionsStartWithoutPrefixes) {
  const rexit::Bundle opened(path());
  rexit::Session old(opened);
  old.score(request_);
  replace_manifest();
  rexit::Session session(*opened.reloaded());
  EXPECT_EQ(session.memory().prefixes, 0u);
  EXPECT_EQ(session.score(request_).stats.prefix_tokens_reused, 0u);
  EXPECT_EQ(old.score(request_).stats.prefix_layers, 0u);
}

TEST_F(ReloadTest, FailureLeavesTheBundle) {
  rexit::LiveBundle live(path());
  const rexit_bundle* before = live.current().get();
  replace_manifest("\"exits\"", "\"other\"");
  std::string opening;
  EXPECT_EQ(status_of(path(), {}, opening), REXIT_CORRUPT);
  refused([&] { live.reload(); }, REXIT_CORRUPT, opening);
  EXPECT_EQ(live.current().get(), before);
  rexit::Session(live.current()).score(request_);
}

// The loaded backend would write into buffers sized by the new files: a heap overflow, which the sanitizers detect.
TEST_F(ReloadTest, AnotherModelIsRefused) {
  const rexit::Bundle opened(path());
  for (const auto& [from, to] :
       {std::pair("\"hidden_size\": 16", "\"hidden_size\": 8"), std::pair("\"kv_heads\": 2", "\"kv_heads\": 1"),
        std::pair("\"head_dim\": 8", "\"head_dim\": 4"), std::pair("\"max_positions\": 96", "\"max_positions\": 97")}) {
    replace_manifest(from, to);
    refused([&] { rexit::Session(*opened.reloaded()).score(request_); }, REXIT_MISMATCH, "the segments have changed");
    replace_manifest(to, from);
  }
}

TEST_F(ReloadTest, OtherSegmentsUnderTheSameDigestAreRefused) {
  const rexit::Bundle opened(path());
  replace("variants/cpu-fp32/variant.json", "\"cache_dtype\": \"float32\"", "\"cache_dtype\": \"float16\"");
  replace_manifest();
  refused([&] { opened.reloaded(); }, REXIT_CORRUPT, "variant.json: SHA-256 ");
  refused([&] { rexit::Bundle{path()}; }, REXIT_CORRUPT, "variant.json: SHA-256 ");
}

TEST_F(ReloadTest, AnOlderBundleNeverReplacesANewerOne) {
  rexit::LiveBundle live(path());
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (int n = 0; n < 3; ++n)
    others.emplace_back([&] {
      while (!stop) live.reload();
    });
  int older = 0;
  for (int n = 0; n < 60; ++n) {
    replace_manifest();
    live.reload();
    for (int look = 0; look < 5; ++look) older += live.current().reloaded() ? 1 : 0;
  }
  stop = true;
  for (std::thread& thread : others) thread.join();
  EXPECT_EQ(older, 0);
}

TEST_F(ReloadTest, ThreadsServeWhileItIsReloaded) {
  rexit::LiveBundle live(path());
  const float expected = rexit::Session(live.current()).score(request_).scores[0].log_odds;
  std::atomic<bool> stop{false};
  std::atomic<int> served{0}, wrong{0}, swapped{0};
  std::vector<std::thread> workers;
  for (int n = 0; n < 3; ++n)
    workers.emplace_back([&] {
      rexit::Session session(live.current());
      while (!stop) {
        if (const rexit::Bundle now = live.current(); session.bundle().get() != now.get()) {
          session = rexit::Session(now);
          ++swapped;
        }
        if (session.score(request_).scores[0].log_odds != expected) ++wrong;
        ++served;
      }
    });
  for (int n = 0; n < 20; ++n) {
    replace_manifest();
    EXPECT_TRUE(live.reload());
    EXPECT_FALSE(live.reload());
    for (const int before = served; served < before + 3;) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(swapped, 0);
}

}  // namespace

// A program that uses ONNX Runtime itself, by its C++ headers and the same library, and is linked with rexit's objects, as with
// librexit.a.
#include <gtest/gtest.h>
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

struct HostLog {
  int lines = 0;
  std::function<void()> at_the_next_line;

  static void write(void* context, OrtLoggingLevel, const char*, const char*, const char*, const char*) {
    auto& log = *static_cast<HostLog*>(context);
    ++log.lines;
    if (log.at_the_next_line) std::exchange(log.at_the_next_line, nullptr)();
  }
};

// A process has one environment, and this one has no thread pool for sessions to share. The program's table of functions stays
// its own. Its log may score: then a run begins within a run, of the same thread.
TEST(Host, ItsEnvironmentServesABundleToo) {
  const OrtApi table = *OrtGetApiBase()->GetApi(ORT_API_VERSION);
  Ort::InitApi(&table);
  HostLog log;
  const Ort::Env env(ORT_LOGGING_LEVEL_VERBOSE, "host", HostLog::write, &log);
  rexit::BundleOptions options;
  options.threads = 2;
  const rexit::Bundle bundle(sound_bundle(), options);
  rexit::Session session(bundle), other(bundle);
  const auto request = rexit::Request(std::int64_t{106}).items({std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}});
  const std::vector<float> expected = session.trace(request).log_odds;
  EXPECT_EQ(expected.size(), 3 * bundle.info().exits);
  EXPECT_GT(log.lines, 0);
  session.clear_cache();
  std::vector<float> outer, inner;
  std::thread([&] {  // without the memory of earlier runs
    log.at_the_next_line = [&] { inner = other.trace(request).log_odds; };
    outer = session.trace(request).log_odds;
  })
      .join();
  EXPECT_EQ(inner, expected);
  EXPECT_EQ(outer, expected);
  EXPECT_EQ(&Ort::GetApi(), &table);
}

}  // namespace

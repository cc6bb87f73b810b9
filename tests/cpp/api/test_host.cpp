// A program that uses ONNX Runtime itself, by its C++ headers and the same library, and is linked with rexit's objects, as with
// librexit.a.
#include <gtest/gtest.h>
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <cstdint>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

int lines = 0;

void count_line(void*, OrtLoggingLevel, const char*, const char*, const char*, const char*) { ++lines; }

// A process has one environment, and this one has no thread pool for sessions to share. The program's table of functions stays
// its own.
TEST(Host, ItsEnvironmentServesABundleToo) {
  const OrtApi table = *OrtGetApiBase()->GetApi(ORT_API_VERSION);
  Ort::InitApi(&table);
  const Ort::Env env(ORT_LOGGING_LEVEL_VERBOSE, "host", count_line, nullptr);
  rexit::BundleOptions options;
  options.threads = 2;
  const rexit::Bundle bundle(sound_bundle(), options);
  rexit::Session session(bundle);
  const auto request = rexit::Request(std::int64_t{106}).items({std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}});
  EXPECT_EQ(session.trace(request).log_odds.size(), 3 * bundle.info().exits);
  EXPECT_GT(lines, 0);
  EXPECT_EQ(&Ort::GetApi(), &table);
}

}  // namespace

// A program that uses ONNX Runtime itself, by its C++ headers and the same library, and is linked with rexit's objects, as with
// librexit.a.
#include <gtest/gtest.h>
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

const rexit::Request request = rexit::Request(std::int64_t{106}).items({std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}});

// Its table of functions is its own.
class Host : public testing::Test {
 protected:
  Host() { Ort::InitApi(&table); }
  ~Host() override { EXPECT_EQ(&Ort::GetApi(), &table); }

  const OrtApi table = *OrtGetApiBase()->GetApi(ORT_API_VERSION);
};

// A process has one environment, and this environment has no thread pool for sessions to share.
TEST_F(Host, ItsEnvironmentServesABundleToo) {
  const auto count = [](void* lines, OrtLoggingLevel, const char*, const char*, const char*, const char*) {
    ++*static_cast<int*>(lines);
  };
  int lines = 0;
  const Ort::Env env(ORT_LOGGING_LEVEL_INFO, "host", count, &lines);
  rexit::BundleOptions options;
  options.threads = 2;
  const rexit::Bundle bundle(sound_bundle(), options);
  rexit::Session session(bundle);
  session.warm_up();
  EXPECT_GT(session.memory().working, 0u);
  EXPECT_EQ(session.trace(request).log_odds.size(), 3 * bundle.info().exits);
  EXPECT_GT(lines, 0);
}

}  // namespace

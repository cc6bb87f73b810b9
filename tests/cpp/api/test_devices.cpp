// Where a bundle runs: the requested device, and the message if it is not available.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

const std::vector<rexit::Id> slate{std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}, std::int64_t{3}};

std::string folder() { return tensorrt_bundles() + "/sound/bundle"; }

rexit::BundleOptions on(const std::string& variant, const std::string& device, std::int32_t id = 0) {
  rexit::BundleOptions options;
  options.variant = variant;
  options.device = device;
  options.device_id = id;
  return options;
}

// float16 hidden states and caches between segments that compute in float32.
TEST(Devices, TheCpuRunsATensorRtVariantsGraphs) {
  rexit::Session half(rexit::Bundle(folder(), on("tensorrt-fp16", "cpu"))), full(rexit::Bundle(folder(), on("cpu-fp32", "")));
  for (const std::int64_t user : {106, 112, 7777}) {
    const rexit::Request request = rexit::Request(user).items(slate);
    half.clear_cache();  // a start copied from another user's prefix is rounded differently
    const std::vector<float> log_odds = half.trace(request).log_odds, expected = full.trace(request).log_odds;
    ASSERT_EQ(log_odds.size(), 12u);
    float most = 0;
    for (std::size_t i = 0; i < log_odds.size(); ++i) {
      EXPECT_NEAR(log_odds[i], expected[i], 1.0f) << i;  // the log-odds reach 40
      most = std::max(most, std::fabs(log_odds[i] - expected[i]));
    }
    EXPECT_GT(most, 0) << "the half-precision variant computes exactly what the other does";
    half.clear_cache();
    const rexit::Scores scores = half.score(rexit::Request(user).items(slate).policy({{2, 2, 2}, {2, 2, 2}, 1}));
    for (std::size_t i = 0; i < slate.size(); ++i)
      EXPECT_NEAR(scores.scores[i].log_odds, log_odds[3 * i + scores.scores[i].exit], 0.1f);
  }
  half.warm_up();
}

TEST(Devices, UnknownDevicesAreRefused) {
  std::string message;
  EXPECT_EQ(status_of(folder(), on("cpu-fp32", "npu"), message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(message, "device is `npu`, expected cpu, cuda or tensorrt");
  EXPECT_EQ(status_of(folder(), on("cpu-fp32", "cpu", -1), message), REXIT_INVALID_ARGUMENT);
  EXPECT_NE(message.find("device_id is -1"), std::string::npos) << message;
}

TEST(Devices, TensorRtRunsItsOwnVariantsOnly) {
  std::string message;
  EXPECT_EQ(status_of(folder(), on("cpu-fp32", "tensorrt"), message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(message, "device `tensorrt` runs only variants exported for tensorrt; variant `cpu-fp32` targets cpu");
}

// The tests' ONNX Runtime is the one for the CPU, and their rexit is built without TensorRT.
TEST(Devices, MissingDevicesNameTheirRequirement) {
  std::string message;
  EXPECT_EQ(status_of(folder(), on("tensorrt-fp16", ""), message), REXIT_BACKEND_MISSING);
  EXPECT_EQ(message,
            "device `tensorrt`, which variant `tensorrt-fp16` is for, needs a rexit built with -DREXIT_TENSORRT=ON; device "
            "`cpu` runs its graphs");
  EXPECT_EQ(status_of(folder(), on("cpu-fp32", "cuda"), message), REXIT_BACKEND_MISSING);
  EXPECT_NE(message.find("device `cuda` needs CUDAExecutionProvider, but this ONNX Runtime has only"), std::string::npos)
      << message;
  EXPECT_NE(message.find("onnxruntime-gpu"), std::string::npos) << message;
}

}  // namespace

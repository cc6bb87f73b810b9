// Accepted versions of ONNX Runtime and their opsets; tests/runtime/test_library.py uses a real old library.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "backends/onnxruntime/ort_library.hpp"
#include "base/status.hpp"
#include "bundles.hpp"
#include "session/session.hpp"

using namespace rexit::core;

namespace {

std::string refused(std::size_t opset, const std::string& version) {
  try {
    check_opset(opset, "variant `cpu-fp32`", version);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), REXIT_BACKEND_MISSING);
    return error.what();
  }
  return "nothing";
}

TEST(Opset, OldLibrariesAreRefusedInOneClearLine) {
  EXPECT_EQ(refused(23, "1.21.0"),
            "variant `cpu-fp32` needs ONNX Runtime 1.23 or newer for its opset 23, the loaded library is 1.21.0");
  EXPECT_NE(refused(23, "1.22.1"), "nothing");
  EXPECT_NE(refused(22, "1.20.1"), "nothing");
  EXPECT_NE(refused(21, "1.17.3"), "nothing");
  EXPECT_NE(refused(20, "1.16.3"), "nothing");
}

TEST(Opset, SupportedOpsetsAreAccepted) {
  EXPECT_EQ(refused(23, "1.23.0"), "nothing");
  EXPECT_EQ(refused(23, "1.100.0"), "nothing");
  EXPECT_EQ(refused(22, "1.21.0"), "nothing");
  EXPECT_EQ(refused(21, "1.18.1"), "nothing");
  EXPECT_EQ(refused(18, "1.16.3"), "nothing");
}

TEST(Opset, AVersionOfAnotherFormIsAccepted) {
  EXPECT_EQ(refused(23, "2.0.0"), "nothing");
  EXPECT_EQ(refused(23, ""), "nothing");
  EXPECT_EQ(refused(23, "1."), "nothing");
  EXPECT_EQ(refused(23, "nightly"), "nothing");
}

// Distributions ship libraries older than the headers that rexit is built with.
TEST(Library, TheOldestApiIsEnough) {
  const Execution execution{std::getenv("REXIT_TEST_OLD_ONNXRUNTIME")};
  const auto make = [&](const Bundle& bundle) { return make_backend_factory(bundle, execution); };
  Session session(std::make_shared<const LoadedBundle>(open_source(sound_bundle()), nullptr, make), 0);
  session.warm_up();
}

}  // namespace

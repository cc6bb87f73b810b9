// Accepted versions of ONNX Runtime and their opsets; tests/runtime/test_library.py uses a real old library.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "backends/onnxruntime/ort_library.hpp"
#include "base/status.hpp"
#include "bundles.hpp"
#include "session/session.hpp"

using namespace rexit::core;

namespace {

TEST(Opset, OldLibrariesAreRefusedInOneClearLine) {
  struct Case {
    std::size_t opset;
    const char* version;
    bool accepted;
  };
  // A version of another form is accepted.
  for (const Case& c : {Case{23, "1.22.1", false},
                        {22, "1.20.1", false},
                        {21, "1.17.3", false},
                        {20, "1.16.3", false},
                        {23, "1.23.0", true},
                        {23, "1.100.0", true},
                        {22, "1.21.0", true},
                        {21, "1.18.1", true},
                        {18, "1.16.3", true},
                        {23, "2.0.0", true},
                        {23, "", true},
                        {23, "1.", true},
                        {23, "nightly", true}}) {
    SCOPED_TRACE(c.version);
    try {
      check_opset(c.opset, "variant `cpu-fp32`", c.version);
      EXPECT_TRUE(c.accepted);
    } catch (const Error& error) {
      EXPECT_FALSE(c.accepted);
      EXPECT_EQ(error.status(), REXIT_BACKEND_MISSING);
      const std::string end = "for its opset " + std::to_string(c.opset) + ", the loaded library is " + c.version;
      EXPECT_NE(std::string(error.what()).find(end), std::string::npos) << error.what();
    }
  }
}

// Distributions ship libraries older than the headers that rexit is built with.
TEST(Library, TheOldestApiIsEnoughAndAProviderGetsItsNameAndOptions) {
  const char* const library = std::getenv("REXIT_TEST_OLD_ONNXRUNTIME");
  const char* const keys[] = {"device", "precision"};
  const char* const values[] = {"1", "int8"};
  Execution execution{};
  execution.onnxruntime_library = library;
  execution.provider = "NPU";
  execution.provider_keys = keys;
  execution.provider_values = values;
  execution.provider_option_count = 2;
  const auto make = [&](const Bundle& bundle) { return make_backend_factory(bundle, execution); };
  Session session(std::make_shared<const LoadedBundle>(sound_bundle(), nullptr, make), 0);
  session.warm_up();
  const auto appended = reinterpret_cast<const char* (*)()>(::dlsym(::dlopen(library, RTLD_NOW), "appended_provider"));
  EXPECT_STREQ(appended(), "NPU device=1 precision=int8");
}

}  // namespace

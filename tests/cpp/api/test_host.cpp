// A program that uses ONNX Runtime itself, by its C++ headers and the same library, and is linked with rexit's objects, as with
// librexit.a. ONNX Runtime has an environment per process, so that most tests run in a process of their own.
#include <gtest/gtest.h>
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
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

// The body ends its process: with 0 if all it expects is so. These come first (GoogleTest's rule for the name), when this
// process, which each of them is a fork of, has opened nothing and has no other thread.
class HostDeathTest : public Host {};

void must(bool is_so, const char* text) {
  if (is_so) return;
  std::fprintf(stderr, "not so: %s (%s)\n", text, rexit_last_error());
  std::_Exit(1);
}
#define MUST(condition) must(condition, #condition)

std::size_t threads_of_this_process() {
  using Iterator = std::filesystem::directory_iterator;
  return static_cast<std::size_t>(std::distance(Iterator("/proc/self/task"), Iterator()));
}

rexit::BundleOptions with_own_library() {
  rexit::BundleOptions options;
  options.onnxruntime = OrtGetApiBase();
  options.onnxruntime_library = "/nowhere/libonnxruntime.so";
  return options;
}

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

// The program's ONNX Runtime, environment, pool and allocator.
void use_the_hosts_onnxruntime() {
  struct Counting : OrtAllocator {
    std::atomic<int> count{0};
    Ort::MemoryInfo info = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    Counting() : OrtAllocator{} {
      version = 17;
      Alloc = [](OrtAllocator* self, std::size_t bytes) {
        ++static_cast<Counting*>(self)->count;
        return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
      };
      Free = [](OrtAllocator*, void* memory) { std::free(memory); };
      Info = [](const OrtAllocator* self) { return static_cast<const OrtMemoryInfo*>(static_cast<const Counting*>(self)->info); };
    }
  };
  auto* allocator = new Counting;
  Ort::ThreadingOptions threading;
  threading.SetGlobalIntraOpNumThreads(3);
  int lines = 0;
  const auto count = [](void* logged, OrtLoggingLevel, const char*, const char*, const char*, const char*) {
    ++*static_cast<int*>(logged);
  };
  auto* const env = new Ort::Env(threading, count, &lines, ORT_LOGGING_LEVEL_INFO, "host");
  MUST(Ort::GetApi().RegisterAllocator(*env, allocator) == nullptr);
  const std::size_t before = threads_of_this_process();
  rexit::BundleOptions options = with_own_library();
  options.threads = 3;
  options.environment = *env;
  const rexit::Bundle bundle(sound_bundle(), options);
  delete env;
  MUST(rexit::Session(bundle).trace(request).log_odds.size() == 9);
  MUST(threads_of_this_process() == before);
  MUST(allocator->count > 0);
  MUST(lines > 0);
  std::_Exit(0);
}

TEST_F(HostDeathTest, ItsOnnxRuntimeIsUsed) { EXPECT_EXIT(use_the_hosts_onnxruntime(), testing::ExitedWithCode(0), ""); }

void pass_the_environment_that_is_in_use() {
  const Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "host");
  std::string message;
  MUST(status_of(sound_bundle(), with_own_library(), message) == REXIT_OK);
  rexit::BundleOptions options = with_own_library();
  options.environment = env;
  MUST(status_of(sound_bundle(), options, message) == REXIT_OK);
  std::_Exit(0);
}

TEST_F(HostDeathTest, TheEnvironmentInUseCanBePassedLater) {
  EXPECT_EXIT(pass_the_environment_that_is_in_use(), testing::ExitedWithCode(0), "");
}

const OrtApi* ORT_API_CALL no_api(std::uint32_t) noexcept { return nullptr; }
const OrtApi* ORT_API_CALL another_api(std::uint32_t version) noexcept {
  static const OrtApi other = *OrtGetApiBase()->GetApi(version);
  return &other;
}
const char* ORT_API_CALL version_text() noexcept { return "1.16.3"; }

void offer_other_libraries() {
  const OrtApiBase old{no_api, version_text};
  const OrtApiBase another{another_api, version_text};
  rexit::BundleOptions options;
  std::string message;
  options.onnxruntime = &old;
  MUST(status_of(sound_bundle(), options, message) == REXIT_BACKEND_MISSING);
  MUST(message == "ONNX Runtime is 1.16.3, expected at least 1.17");
  MUST(status_of(sound_bundle(), with_own_library(), message) == REXIT_OK);
  options.onnxruntime = &another;
  MUST(status_of(sound_bundle(), options, message) == REXIT_INVALID_ARGUMENT);
  MUST(message.find("options.onnxruntime is another library than the ONNX Runtime 1.") == 0);
  MUST(status_of(sound_bundle(), {}, message) == REXIT_OK);
  options = with_own_library();
  options.environment = &options;
  MUST(status_of(sound_bundle(), options, message) == REXIT_INVALID_ARGUMENT);
  MUST(message == "options.environment is not that of the first bundle opened in this process");
  options.onnxruntime = nullptr;
  MUST(status_of(sound_bundle(), options, message) == REXIT_INVALID_ARGUMENT);
  MUST(message == "options.environment is set without options.onnxruntime, the library that created it");
  std::_Exit(0);
}

std::string appended_provider;
OrtStatusPtr ORT_API_CALL append_provider(OrtSessionOptions*, const char* name, const char* const* keys,
                                          const char* const* values, std::size_t count) noexcept {
  appended_provider += name;
  for (std::size_t i = 0; i < count; ++i) appended_provider += std::string(" ") + keys[i] + "=" + values[i];
  appended_provider += ";";
  return nullptr;
}
const OrtApi* ORT_API_CALL recording_api(std::uint32_t version) noexcept {
  const OrtApi* api = OrtGetApiBase()->GetApi(version);
  if (api == nullptr) return nullptr;
  static OrtApi recording = *api;
  recording.SessionOptionsAppendExecutionProvider = append_provider;
  return &recording;
}

void name_a_provider() {
  const OrtApiBase base{recording_api, OrtGetApiBase()->GetVersionString};
  rexit::BundleOptions options;
  options.onnxruntime = &base;
  options.provider = "NPU";
  options.provider_options = {{"device", "1"}, {"precision", "int8"}};
  MUST(rexit::Session(rexit::Bundle(sound_bundle(), options)).trace(request).log_odds.size() == 9);
  MUST(appended_provider == "NPU device=1 precision=int8;");
  std::_Exit(0);
}

TEST_F(HostDeathTest, AProviderGetsItsNameAndOptions) { EXPECT_EXIT(name_a_provider(), testing::ExitedWithCode(0), ""); }

void offer_another_environment() {
  rexit::BundleOptions options = with_own_library();
  options.environment = &options;
  std::string message;
  MUST(status_of(sound_bundle(), options, message) == REXIT_INVALID_ARGUMENT);
  MUST(message == "options.environment is not the environment of options.onnxruntime");
  MUST(status_of(sound_bundle(), with_own_library(), message) == REXIT_OK);
  std::_Exit(0);
}

TEST_F(HostDeathTest, AnotherEnvironmentIsRefused) { EXPECT_EXIT(offer_another_environment(), testing::ExitedWithCode(0), ""); }

TEST_F(HostDeathTest, AnOldOneOrASecondLibraryIsRefused) { EXPECT_EXIT(offer_other_libraries(), testing::ExitedWithCode(0), ""); }

void count_own_threads() {
  const Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "host");  // has a thread, too
  rexit::BundleOptions options = with_own_library();
  options.own_threads = true;
  options.threads = 1;
  const std::size_t before = threads_of_this_process();
  const rexit::Bundle single(sound_bundle(), options);
  MUST(threads_of_this_process() == before);
  options.threads = 3;
  const rexit::Bundle triple(sound_bundle(), options);
  MUST(threads_of_this_process() == before + 2 * triple.info().exits);
  MUST(rexit::Session(single).trace(request).log_odds.size() == 9);
  MUST(rexit::Session(triple).trace(request).log_odds.size() == 9);
  std::_Exit(0);
}

TEST_F(HostDeathTest, OwnThreadsAreASegmentsOwn) { EXPECT_EXIT(count_own_threads(), testing::ExitedWithCode(0), ""); }

// The first open created no pool: whatever comes later has pools of its own size.
void open_others_after_own_threads() {
  rexit::BundleOptions options = with_own_library();
  options.own_threads = true;
  options.threads = 2;
  const rexit::Bundle first(sound_bundle(), options);
  const std::size_t before = threads_of_this_process();
  options.own_threads = false;
  options.threads = 1;
  options.spinning = REXIT_SPINNING_OFF;
  const rexit::Bundle single(sound_bundle(), options);
  MUST(threads_of_this_process() == before);
  options.threads = 3;
  const rexit::Bundle triple(sound_bundle(), options);
  MUST(threads_of_this_process() == before + 2 * triple.info().exits);
  MUST(rexit::Session(single).trace(request).log_odds.size() == 9);
  MUST(rexit::Session(triple).trace(request).log_odds.size() == 9);
  std::_Exit(0);
}

TEST_F(HostDeathTest, WithoutAPoolEveryOpenHasItsOwn) {
  EXPECT_EXIT(open_others_after_own_threads(), testing::ExitedWithCode(0), "");
}

void change_spinning() {
  rexit::BundleOptions options = with_own_library();
  options.spinning = REXIT_SPINNING_OFF;
  std::string message;
  MUST(status_of(sound_bundle(), options, message) == REXIT_OK);
  MUST(status_of(sound_bundle(), {}, message) == REXIT_OK);
  options.spinning = REXIT_SPINNING_ON;
  MUST(status_of(sound_bundle(), options, message) == REXIT_INVALID_ARGUMENT);
  MUST(message ==
       "spinning is on, but the first bundle opened in this process created the pool with spinning off: use that or "
       "REXIT_SPINNING_DEFAULT");
  options.own_threads = true;
  MUST(status_of(sound_bundle(), options, message) == REXIT_OK);
  std::_Exit(0);
}

TEST_F(HostDeathTest, ThePoolSpinsOrNotForTheWholeProcess) { EXPECT_EXIT(change_spinning(), testing::ExitedWithCode(0), ""); }

}  // namespace

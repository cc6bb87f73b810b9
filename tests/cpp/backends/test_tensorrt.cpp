// The TensorRT backend over the test double in tensorrt_double: calls, memory and failures.
#include <NvInfer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

constexpr std::size_t hidden = 16, exits = 3;
constexpr std::size_t depths[exits] = {1, 2, 4};
constexpr std::int32_t vocabulary = 64, users_id = 64 + 3 * 20;  // of write_numbers in tests/damage/engines.py
constexpr float never = std::numeric_limits<float>::infinity();

std::vector<rexit::Id> items(std::size_t count) {
  std::vector<rexit::Id> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int64_t>(i) * 5 - 7);
  return ids;
}

rexit::BundleOptions options() {
  rexit::BundleOptions bundle_options;
  bundle_options.variant = "tensorrt-fp16";
  return bundle_options;
}

std::string folder(const std::string& name = "sound") { return tensorrt_bundles() + "/" + name + "/bundle"; }

// The result of the double's engines for a whole prompt, token by token: no prefix, no packing, no segments.
std::vector<float> reference(const std::vector<std::int32_t>& tokens) {
  std::vector<std::vector<std::int64_t>> x;
  for (const std::int32_t token : tokens) {
    x.emplace_back();
    for (std::int64_t j = 0; j < static_cast<std::int64_t>(hidden); ++j)
      x.back().push_back(token < vocabulary ? (token + 1) * (j + 1) % 251
                         : token < users_id ? (7 * (token - vocabulary) + 3 * j + 5) % 251
                                            : (5 * j + 11) % 251);
  }
  std::vector<float> answers;
  for (std::int64_t n = 0; n < static_cast<std::int64_t>(depths[exits - 1]); ++n) {
    std::vector<std::int64_t> sums(hidden, 0);
    for (std::size_t t = 0; t < x.size(); ++t) {
      const auto position = static_cast<std::int64_t>(t);
      for (std::size_t j = 0; j < hidden; ++j) {
        sums[j] += 2 * ((x[t][j] * 13 + position + n) % 251) + (x[t][j] * 11 + n + 1) % 251;
        x[t][j] = (x[t][j] * 3 + sums[j] * 5 + position * 7 + n) % 251;
      }
    }
    if (static_cast<std::size_t>(n) + 1 != depths[answers.size()]) continue;
    std::int64_t sum = 0;
    for (const std::int64_t value : x.back()) sum += value;
    answers.push_back(static_cast<float>(sum % 41 - 20));
  }
  return answers;
}

std::vector<float> reference(rexit::Session& session, const rexit::Request& request) {
  const rexit::Prompt prompt = session.prompt(request);
  const auto end = [&](std::size_t i) { return prompt.tokens.begin() + static_cast<std::ptrdiff_t>(prompt.ends[i]); };
  std::vector<float> all;
  for (std::size_t i = 1; i < prompt.ends.size(); ++i) {
    std::vector<std::int32_t> tokens(prompt.tokens.begin(), end(0));
    tokens.insert(tokens.end(), end(i - 1), end(i));
    const std::vector<float> answers = reference(tokens);
    all.insert(all.end(), answers.begin(), answers.end());
  }
  return all;
}

cuda_double::Machine& machine() { return cuda_double::machine(); }

class TensorRt : public testing::Test {
 protected:
  void SetUp() override {
    machine().devices = 1;
    machine().minor = 7;
    machine().memory = std::size_t{1} << 30;
    machine().pools = true;
    machine().integrated = false;
    machine().created.clear();
    forget();
  }
  // Whatever a test did, everything is released when its bundle and sessions are gone.
  void TearDown() override {
    EXPECT_EQ(machine().mistakes, std::vector<std::string>{});
    EXPECT_EQ(machine().allocated, 0u);
    EXPECT_TRUE(machine().pinned.empty());
    EXPECT_TRUE(machine().allocations.empty());
    EXPECT_EQ(machine().pool_count, 0u);
    EXPECT_TRUE(machine().retained.empty());
    EXPECT_TRUE(machine().created.empty()) << "a call without a context created one on the caller's GPU";
    EXPECT_TRUE(cuda_double::current_devices().empty());
    EXPECT_EQ(machine().streams, 0u);
    EXPECT_EQ(machine().loaded, 0u);
    EXPECT_EQ(machine().contexts, 0u);
  }
  static void forget() {
    machine().copies.clear();
    machine().copied.clear();
    machine().enqueued = machine().synchronizations = machine().allocation_count = machine().contexts_made = machine().stalls = 0;
  }

  static rexit_status failure(const rexit::BundleOptions& bundle_options, const std::string& path, std::string& message) {
    try {
      rexit::Session session{rexit::Bundle(path, bundle_options)};
      session.trace(rexit::Request(std::int64_t{106}).items(items(4)));
    } catch (const rexit::Error& error) {
      message = error.what();
      return error.status();
    }
    return REXIT_OK;
  }
};

// The second slate does not fit a pass.
TEST_F(TensorRt, TheChainIsTheWholeModel) {
  for (const char* name : {"sound", "sound_with_start"}) {
    rexit::Session session{rexit::Bundle(folder(name), options())};
    for (const std::int64_t user : {106, 112, 7777})
      for (const std::size_t count : {4, 20}) {
        const rexit::Request request = rexit::Request(user).items(items(count));
        const rexit::Trace trace = session.trace(request);
        EXPECT_EQ(trace.log_odds, reference(session, request)) << name;
        if (name == std::string("sound_with_start")) EXPECT_GE(trace.stats.prefix_tokens_reused, 11u);
      }
  }
}

// Copies between host and GPU: indices up and logits down. The host waits only for logits.
TEST_F(TensorRt, OnlyIndicesGoUpAndOnlyLogitsComeDown) {
  for (const char* name : {"sound"}) {
    rexit::Session session{rexit::Bundle(folder(name), options())};
    const rexit::Request request = rexit::Request(std::int64_t{106}).items(items(2));
    forget();
    session.trace(request);
    EXPECT_EQ(machine().enqueued, 2 * exits);  // the prefix, then the slate
    EXPECT_EQ(machine().copies[cudaMemcpyHostToDevice], 2 * exits);
    EXPECT_EQ(machine().copies[cudaMemcpyDeviceToHost], exits);
    EXPECT_EQ(machine().copied[cudaMemcpyDeviceToHost], exits * 2 * 2 * sizeof(float));
    EXPECT_EQ(machine().copies[cudaMemcpyDeviceToDevice], 0u);
    forget();
    session.trace(request);
    EXPECT_EQ(machine().enqueued, exits);  // the prefix is still there
    EXPECT_EQ(machine().copies[cudaMemcpyHostToDevice], exits);
    EXPECT_EQ(machine().synchronizations, exits);
    EXPECT_EQ(machine().allocation_count, 0u);
  }
}

// Opening the bundle allocates all memory of passes; sessions allocate their prefixes.
TEST_F(TensorRt, OpenAllocatesThePassesMemory) {
  const rexit::Bundle bundle(folder(), options());
  EXPECT_EQ(machine().contexts, 2 * exits);  // per segment, for prefixes and for slates
  const std::size_t open = machine().allocated;
  forget();
  {
    rexit::Session session(bundle);
    EXPECT_EQ(machine().allocation_count, 0u);
    session.warm_up();
    forget();
    session.trace(rexit::Request(std::int64_t{106}).items(items(2)));
    EXPECT_EQ(machine().allocation_count, 0u);
    rexit::Session other(bundle);
    EXPECT_EQ(machine().contexts, 4 * exits);
  }
  EXPECT_EQ(machine().allocated, open);  // and the next session uses it again
  EXPECT_EQ(machine().contexts, 2 * exits);
  machine().memory = open / 2;
  std::string message;
  EXPECT_EQ(failure(options(), folder(), message), REXIT_OUT_OF_MEMORY);
  EXPECT_NE(message.find("bytes: CUDA: out of memory"), std::string::npos) << message;
}

// Device memory goes back to the GPU. Contexts stay: requests create none.
TEST_F(TensorRt, TrimReleasesThePassesMemory) {
  for (const bool pools : {true, false}) {
    machine().pools = pools;
    const rexit::Bundle bundle(folder(), options());
    rexit::Session session(bundle);
    {
      const rexit::Session idle(bundle);
    }  // its worker waits for another session
    const rexit::Request request = rexit::Request(std::int64_t{106}).items(items(4));
    std::vector<float> expected;
    for (int round = 0; round < 3; ++round) expected = session.trace(request).log_odds;
    EXPECT_GT(session.memory().gpu, 0u);
    EXPECT_GT(session.memory().prefixes, 0u);
    EXPECT_LE(session.memory().gpu, machine().allocated);
    forget();
    session.trim();
    EXPECT_EQ(session.memory().gpu, 0u);
    EXPECT_EQ(machine().allocated, 0u);
    EXPECT_EQ(machine().reserved, 0u);
    for (int round = 0; round < 3; ++round) EXPECT_EQ(session.trace(request).log_odds, expected);
    EXPECT_EQ(machine().contexts_made, 0u);
  }
}

// A request that evicts prefixes and grows buffers does not wait for other sessions.
TEST_F(TensorRt, EvictionsDoNotStallOtherSessions) {
  const rexit::Bundle bundle(folder(), options());
  rexit::Session session(bundle, 1);  // cache_bytes
  forget();
  for (const std::int64_t user : {106, 112, 106, 100, 103}) session.trace(rexit::Request(user).items(items(4)));
  EXPECT_GT(machine().allocation_count, 0u);
  EXPECT_EQ(machine().stalls, 0u);
}

// On a Jetson the GPU reads indices where the host wrote them, and writes logits where the host reads them.
TEST_F(TensorRt, AnIntegratedGpuNeedsNoCopiesToAndFromTheHost) {
  machine().integrated = true;
  rexit::Session session{rexit::Bundle(folder(), options())};
  forget();
  for (int round = 0; round < 3; ++round)
    for (const std::int64_t user : {106, 112}) {
      const rexit::Request request = rexit::Request(user).items(items(20));
      EXPECT_EQ(session.trace(request).log_odds, reference(session, request));
    }
  EXPECT_EQ(machine().copies[cudaMemcpyHostToDevice], 0u);
  EXPECT_EQ(machine().copies[cudaMemcpyDeviceToHost], 0u);
}

// A prefix that shares its start with another: its keys and values are at other addresses, and the new ones behind them begin at
// any row.
TEST_F(TensorRt, ASharedStartIsMovedInFewCopies) {
  std::size_t shared = 0;
  for (std::int64_t user = 100; user <= 133; user += 3)
    for (std::int64_t other = 100; other <= 133; other += 3) {
      rexit::Session session{rexit::Bundle(folder(), options())};
      const rexit::Request request = rexit::Request(other).items(items(2));
      rexit::Trace trace;
      for (int round = 0; round < 2; ++round) {  // in the second one the memory is allocated
        session.clear_cache();
        session.trace(rexit::Request(user).items(items(2)));
        forget();
        trace = session.trace(request);
        EXPECT_EQ(trace.log_odds, reference(session, request));
      }
      if (trace.stats.prefix_tokens_reused == 0 || trace.stats.prefix_tokens_reused == trace.stats.prefix_tokens) continue;
      ++shared;
      // Of each layer's keys and values one copy from the other prefix, one before the pass, one behind it, at most; where they
      // are adjacent fewer. Of hidden states one from the other prefix, and for each segment one into place and one
      // for its alignment. Head by head it would be 12 times the layers and more.
      EXPECT_LE(machine().copies[cudaMemcpyDeviceToDevice], 3 * 2 * depths[exits - 1] + 1 + 2 * (exits - 1));
      EXPECT_EQ(machine().synchronizations, exits);
    }
  EXPECT_GT(shared, 0u);
}

// Every pattern of stopping, in slates of several passes: hidden states move inside device memory.
TEST_F(TensorRt, SurvivorsMove) {
  std::size_t copies = 0;
  for (const float limit : {3.0f, 8.0f, 14.0f, 18.0f}) {
    SCOPED_TRACE(limit);
    rexit::Session session{rexit::Bundle(folder(), options())};
    for (const std::int64_t user : {100, 103, 106, 109, 112, 115}) {
      const auto request = [&] { return rexit::Request(user).items(items(20)); };
      const std::vector<float> expected = reference(session, request());
      const auto score = [&] {
        return session.score(request(), {0, 0, rexit::Policy{{limit, limit, never}, {limit, limit, never}, 1}.json()});
      };
      score();
      forget();
      const rexit::Scores scores = score();
      for (std::size_t i = 0; i < 20; ++i) {
        std::size_t exit = 0;
        while (exit + 1 < exits && std::fabs(expected[exits * i + exit]) < limit) ++exit;
        EXPECT_EQ(scores.scores[i].exit, exit);
        EXPECT_EQ(scores.scores[i].log_odds, expected[exits * i + exit]);
      }
      EXPECT_EQ(machine().allocation_count, 0u);
      EXPECT_EQ(machine().synchronizations, machine().enqueued);
      EXPECT_EQ(machine().copies[cudaMemcpyHostToDevice], machine().enqueued);
      copies += machine().copies[cudaMemcpyDeviceToDevice];
    }
  }
  EXPECT_GT(copies, 0u);
}

TEST_F(TensorRt, DamagedEnginesAreRefused) {
  std::size_t case_count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(tensorrt_bundles())) {
    const std::string name = entry.path().filename();
    SCOPED_TRACE(name);
    std::ifstream expected(entry.path() / "expected");
    std::string status, text, message;
    std::getline(expected, status);
    std::getline(expected, text);
    EXPECT_EQ(status, rexit_status_name(failure(options(), folder(name), message))) << message;
    EXPECT_NE(message.find(text), std::string::npos) << message;
    EXPECT_EQ(machine().allocated, 0u);
    ++case_count;
  }
  EXPECT_GT(case_count, 35u);
}

TEST_F(TensorRt, TheGpuIsChecked) {
  std::string message;
  rexit::BundleOptions bundle_options = options();
  machine().minor = 9;
  EXPECT_EQ(failure(bundle_options, folder(), message), REXIT_NOT_FOUND);
  EXPECT_NE(message.find("compute capability 8.9"), std::string::npos) << message;
  machine().minor = 7;
  machine().devices = 2;
  bundle_options.device_id = 2;
  EXPECT_EQ(failure(bundle_options, folder(), message), REXIT_INVALID_ARGUMENT);
  EXPECT_EQ(message, "device_id is 2, this machine has GPUs 0 to 1");
  machine().devices = 0;
  EXPECT_EQ(failure(bundle_options, folder(), message), REXIT_BACKEND_MISSING);
  EXPECT_NE(message.find("no CUDA-capable device"), std::string::npos) << message;
}

TEST_F(TensorRt, TheCpuStillRunsTheGraphs) {
  std::string message;
  rexit::BundleOptions bundle_options = options();
  machine().devices = 0;
  bundle_options.device = "cpu";
  EXPECT_EQ(failure(bundle_options, folder("no_engines"), message), REXIT_OK) << message;
  EXPECT_EQ(machine().enqueued, 0u);
}

// Not even a context on another GPU: the caller's is current again, or none.
TEST_F(TensorRt, OnlyTheChosenGpuHasAContext) {
  machine().devices = 2;
  rexit::BundleOptions bundle_options = options();
  bundle_options.device_id = 1;
  {
    rexit::Session session{rexit::Bundle(folder(), bundle_options)};
    session.trace(rexit::Request(std::int64_t{106}).items(items(4)));
    EXPECT_EQ(machine().retained, std::multiset<int>{1});
    EXPECT_TRUE(cuda_double::current_devices().empty());
    cuda_double::current_devices().push_back(0);  // the caller's own
    session.trace(rexit::Request(std::int64_t{106}).items(items(2)));
    EXPECT_EQ(cuda_double::current_devices(), std::vector<int>{0});
    cuda_double::current_devices().clear();
  }
  EXPECT_TRUE(machine().created.empty());
}

// In processes of their own, since a process opens its libraries once; first of all (GoogleTest's rule for the name), when this
// one has not.
TEST(TensorRtLibrariesDeathTest, MissingOrOlderLibrariesAreOneLine) {
  const auto open_with = [](const char* variable, const char* path) {
    if (path == nullptr)
      ::unsetenv(variable);
    else
      ::setenv(variable, path, 1);
    try {
      const rexit::Bundle bundle(folder(), options());
    } catch (const rexit::Error& error) {
      std::fprintf(stderr, "%s: %s\n", rexit_status_name(error.status()), error.what());
    }
    rexit::BundleOptions on_cpu = options();
    on_cpu.device = "cpu";
    rexit::Session session{rexit::Bundle(folder(), on_cpu)};
    std::exit(session.score(rexit::Request(std::int64_t{106}).items(items(2))).scores.size() == 2 ? 0 : 1);
  };
  const auto ends = testing::ExitedWithCode(0);
  EXPECT_EXIT(open_with("REXIT_CUDA_DRIVER_LIBRARY", "/nowhere/libcuda.so.1"), ends,
              "^REXIT_BACKEND_MISSING: device `tensorrt`: the NVIDIA driver cannot be loaded: /nowhere/libcuda.so.1: [^\n]*\n$");
  EXPECT_EXIT(open_with("REXIT_CUDA_LIBRARY", nullptr), ends,
              "^REXIT_BACKEND_MISSING: device `tensorrt`: CUDA's runtime cannot be loaded: libcudart.so.12: [^\n]*; set "
              "REXIT_CUDA_LIBRARY to the path of libcudart.so.12\n$");
  EXPECT_EXIT(open_with("REXIT_CUDA_LIBRARY", std::getenv("REXIT_TEST_OLD_TENSORRT")), ends,
              "has no cuda[A-Za-z]*: it is no CUDA's runtime or too old\n$");
  EXPECT_EXIT(
      open_with("REXIT_TENSORRT_LIBRARY", std::getenv("REXIT_TEST_OLD_TENSORRT")), ends,
      "^REXIT_BACKEND_MISSING: device `tensorrt`: the library is TensorRT 8.6.0, this rexit was built for 10.1.0 or a later "
      "10.x\n$");
}

TEST_F(TensorRt, AFullDeviceIsARecoverableError) {
  rexit::Session session{rexit::Bundle(folder(), options())};
  const rexit::Request small = rexit::Request(std::int64_t{106}).items(items(2)),
                       large = rexit::Request(std::int64_t{112}).items(items(20));
  session.trace(small);
  session.trim();  // so that the buffers of passes are among what fails
  std::size_t failures = 0;
  for (std::size_t more = 0; more < 40'000; more += 1000) {  // every allocation fails once
    machine().memory = machine().allocated + more;
    try {
      session.trace(large);
      break;
    } catch (const rexit::Error& error) {
      EXPECT_EQ(error.status(), REXIT_OUT_OF_MEMORY) << error.what();
      EXPECT_NE(std::string(error.what()).find("bytes: CUDA: out of memory"), std::string::npos) << error.what();
      ++failures;
    }
  }
  EXPECT_GT(failures, 0u);
  machine().memory = std::size_t{1} << 30;
  EXPECT_EQ(session.trace(large).log_odds, reference(session, large));
  EXPECT_EQ(session.trace(small).log_odds, reference(session, small));
}

TEST_F(TensorRt, ItsMessagesAreLogged) {
  std::vector<std::string> lines;
  rexit_set_log(
      [](void* context, rexit_log_level, const char* line) { static_cast<std::vector<std::string>*>(context)->push_back(line); },
      &lines, REXIT_LOG_ERROR);
  std::string message;
  EXPECT_EQ(failure(options(), folder("plan_that_is_not_enqueued"), message), REXIT_BACKEND_FAILED);
  rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
  EXPECT_EQ(lines, std::vector<std::string>{"tensorrt: a tactic is missing"});
}

}  // namespace

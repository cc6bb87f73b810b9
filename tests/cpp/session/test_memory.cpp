// What a session says that it holds is what it has allocated.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "bundles.hpp"
#include "session/host_backend.hpp"

namespace {

std::atomic<std::size_t> held{0};  // bytes

void* counted(std::size_t bytes, std::size_t alignment = alignof(std::max_align_t)) {
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  held += ::malloc_usable_size(memory);
  return memory;
}

void released(void* memory) noexcept {
  held -= ::malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return counted(bytes, std::size_t(alignment)); }
void operator delete(void* memory) noexcept { released(memory); }
void operator delete(void* memory, std::size_t) noexcept { released(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { released(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { released(memory); }

using namespace rexit::core;

namespace {

class SteppedZero final : public ZeroGraph {
 public:
  void run(const float*, std::size_t rows, float* log_odds) const override {
    for (std::size_t row = 0; row < rows; ++row) log_odds[row] = static_cast<float>(row);
  }
};

class MemoryTest : public testing::TestWithParam<const char*> {};

TEST_P(MemoryTest, ItSaysWhatItHolds) {
  const auto loaded = load_over<ScriptedBackend>(bundles() + "/" + GetParam() + "/bundle",
                                                 [](const Bundle&) { return std::make_shared<const SteppedZero>(); });
  const Bundle& bundle = loaded->bundle;
  Request request;
  if (bundle.has_catalog()) {
    request.query.user = Row(3);
    for (int round = 0; round < 40; ++round)
      for (Row item = 0; item < 5; ++item) request.query.items.push_back(item);
    request.scores.resize(bundle.program().scores.size());
    for (std::vector<float>& stage : request.scores) stage.assign(request.query.items.size(), 0.5f);
  } else {
    request.by_tokens = true;
    request.tokens =
        TokenPrompt{std::vector<std::int32_t>(20, 5), std::vector<std::int32_t>(600, 5), std::vector<std::size_t>(200, 3)};
  }
  const std::size_t before = held;
  Session session(loaded, std::size_t{1} << 20);
  const std::size_t idle = held;
  rexit_stats stats{};
  session.warm_up();
  for (int round = 0; round < 3; ++round) {
    session.trace(request, Clock::now(), stats);
    session.score(request, Clock::now(), stats);
    session.prompt(request);
    const Memory memory = session.memory();
    const double said = static_cast<double>(memory.prefixes + memory.buffers);
    EXPECT_NEAR(said, static_cast<double>(held - idle), 0.02 * said + 1000);
  }
  EXPECT_LT(idle - before, 20'000u) << "its own objects are no buffers";
}

INSTANTIATE_TEST_SUITE_P(Bundles, MemoryTest,
                         testing::Values("sound", "sound_with_start", "sound_with_zero", "no_catalog",
                                         "policy_that_reads_earlier_heads", "policy_with_rules_of_the_slate"));

}  // namespace

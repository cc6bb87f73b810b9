// What the arena hands out, keeps and releases; and that ONNX Runtime's memory comes from it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "backends/onnxruntime/ort_library.hpp"
#include "bundles.hpp"
#include "session/session.hpp"

using namespace rexit::core;

namespace {

class OrtArenaTest : public testing::Test {
 protected:
  // The arena is described by an object of ONNX Runtime.
  OrtArenaTest() {
    ort_environment({});
    arena = std::make_unique<OrtArena>();
  }

  void* get(std::size_t bytes) { return arena->Alloc(arena.get(), bytes); }
  void* reserve(std::size_t bytes) { return arena->Reserve(arena.get(), bytes); }
  void free(void* block) { arena->Free(arena.get(), block); }

  std::unique_ptr<OrtArena> arena;
};

TEST_F(OrtArenaTest, BlocksAreAlignedWritableAndApart) {
  std::vector<std::pair<unsigned char*, std::size_t>> blocks;
  for (const std::size_t bytes : {1u, 64u, 255u, 4095u, 4096u, 100'000u, 4096u, 1'000'000u}) {
    auto* block = static_cast<unsigned char*>(blocks.size() % 2 == 0 ? get(bytes) : reserve(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % 64, 0u);
    std::memset(block, static_cast<int>(blocks.size()), bytes);
    blocks.emplace_back(block, bytes);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i].first[0], i);
    EXPECT_EQ(blocks[i].first[blocks[i].second - 1], i);
    free(blocks[i].first);
  }
  arena->trim();
  EXPECT_EQ(arena->usage().runs, 0u);
  EXPECT_EQ(arena->usage().weights, 0u);
}

TEST_F(OrtArenaTest, AFreedBlockServesTheNextOfItsSize) {
  void* block = get(10'000);
  free(block);
  EXPECT_EQ(get(9'000), block);
  free(block);
  void* small = get(1'000);  // a block ten times as large would serve it
  EXPECT_NE(small, block);
  EXPECT_GE(arena->usage().runs, 11'000u);
  EXPECT_LE(arena->usage().runs, 11'500u);
  arena->trim();
  EXPECT_LE(arena->usage().runs, 1'100u);
  free(small);
  arena->trim();
}

// Like prompts of all lengths: three tensors at a time, of varying sizes.
TEST_F(OrtArenaTest, FreeBlocksAreBoundedByThePeakUse) {
  std::size_t most = 0;
  for (std::size_t i = 0; i < 500; ++i) {
    const std::size_t tokens = 50 + i * 131 % 900;
    void* const blocks[] = {get(tokens * 512), get(tokens * 2048), get(tokens * 6144)};
    most = std::max(most, tokens * (512 + 2048 + 6144) + 3 * 256);
    for (void* block : blocks) free(block);
  }
  EXPECT_LE(arena->usage().runs, 2 * most);
  arena->trim();
}

TEST_F(OrtArenaTest, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 2000; ++i) {
        const std::size_t bytes = 1 + i * 37 % 9000;
        auto* block = static_cast<unsigned char*>(get(bytes));
        std::memset(block, t, bytes);
        EXPECT_EQ(block[bytes / 2], t);
        free(block);
      }
    });
  for (std::thread& thread : threads) thread.join();
  arena->trim();
  EXPECT_EQ(arena->usage().runs, 0u);
}

// So no run waits for another's.
TEST_F(OrtArenaTest, RunsAtTheSameTimeHaveAnArenaEach) {
  void *first, *second;
  {
    const OrtArena::Run run(*arena);
    first = get(10'000);
    free(first);
    std::thread([&] {
      const OrtArena::Run other(*arena);
      second = get(10'000);
      EXPECT_NE(second, first);
    }).join();
    EXPECT_EQ(get(10'000), first);
    free(second);  // returns to its arena
    free(first);
  }
  EXPECT_GE(arena->usage().runs, 20'000u);
  const OrtArena::Run run(*arena), next(*arena);  // no third arena
  void* block = get(10'000);
  EXPECT_TRUE(block == first || block == second);
  free(block);
  arena->trim();
  EXPECT_EQ(arena->usage().runs, 0u);
}

// A log callback may score while ONNX Runtime runs.
TEST_F(OrtArenaTest, ARunWithinARunGivesItsArenaBack) {
  const OrtArena::Run run(*arena);
  void* const block = get(10'000);
  free(block);
  {
    const OrtArena::Run nested(*arena);
  }
  EXPECT_EQ(get(10'000), block);
  free(block);
}

TEST_F(OrtArenaTest, OnnxRuntimeUsesIt) {
  const auto loaded = std::make_shared<const LoadedBundle>(open_source(sound_bundle()), nullptr,
                                                           [](const Bundle& bundle) { return make_backend_factory(bundle, {}); });
  Session session(loaded, 0);
  const std::size_t opened = session.memory().backend.working;  // weights, in older versions that do not reserve them
  session.warm_up();
  const std::size_t warm = session.memory().backend.working;
  EXPECT_GT(warm, opened);
  for (int i = 0; i < 5; ++i) session.warm_up();
  EXPECT_EQ(session.memory().backend.working, warm);
  EXPECT_GT(session.memory().prefixes, 0u);
  session.trim();
  EXPECT_EQ(session.memory().backend.working, opened);
  EXPECT_EQ(session.memory().prefixes, 0u);
  session.warm_up();
  EXPECT_EQ(session.memory().backend.working, warm);
}

}  // namespace

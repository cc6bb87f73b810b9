// A request similar to earlier requests allocates nothing. The backend here does not allocate: what ONNX Runtime allocates in its
// runs is not ours.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "api/request.hpp"
#include "backends/onnxruntime/ort_library.hpp"
#include "bundles.hpp"
#include "kernels/attention/slate_attention.hpp"
#include "kernels/products/bfloat16_products.hpp"
#include "kernels/rows/rows.hpp"
#include "session/host_backend.hpp"

namespace {

std::atomic<std::size_t> allocations{0};
std::atomic<std::size_t> too_large{static_cast<std::size_t>(-1)};  // allocations of this many bytes or more fail

void* counted(std::size_t bytes) {
  ++allocations;
  if (bytes >= too_large) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

using namespace rexit::core;

namespace {

// Log-odds depend on the token, so that candidates stop at different exits.
class Constant final : public HostBackend {
 public:
  explicit Constant(const Bundle& bundle) : bundle_(bundle) {}
  void run(std::size_t, const Pass& pass) const override {
    if (pass.hidden_out != nullptr) std::memset(pass.hidden_out, 0, pass.tokens * bundle_.model().hidden_size * sizeof(float));
    for (std::size_t n = 0; pass.logits != nullptr && n < pass.rows; ++n) {
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = static_cast<float>(n);
    }
  }

 private:
  const Bundle& bundle_;
};

// Half of the candidates stop at exit zero.
class AlternatingZero final : public ZeroGraph {
 public:
  void run(const float*, std::size_t rows, float* log_odds) const override {
    for (std::size_t row = 0; row < rows; ++row) log_odds[row] = row % 2 == 0 ? 9.0f : 0.0f;
  }
};

// On bundles without and with a catalog, with a start that all prefixes share, and with a policy that reads earlier
// heads.
class AllocationsTest : public testing::TestWithParam<const char*> {
 protected:
  std::shared_ptr<const LoadedBundle> loaded = load_over<Constant>(
      bundles() + "/" + GetParam() + "/bundle", [](const Bundle&) { return std::make_shared<const AlternatingZero>(); });
  Session session{loaded, std::size_t{1} << 16};
  Request request;
  rexit_stats stats{};

  // User ids are 100, 103, ...; item ids -7, -2, ... (tests/builders/bundles/catalog.py).
  void score(std::int64_t user, std::size_t count, bool more) {
    std::string json = "{\"user\": " + std::to_string(100 + 3 * user) + ", \"items\": [-7";
    for (std::size_t n = 1; n < count; ++n) json += ", " + std::to_string(-7 + 5 * static_cast<std::int64_t>(n));
    json += ']';
    if (more) json += R"(, "recent": [-7, -2, 3, 8, 13, 18, 23, 28, 33, 38, 43, 48], "top_k": 5)";
    run(json + '}', more);
    run("{\"user\": " + std::to_string(100 + 3 * user) + ", \"recent\": [8], \"retrieve\": " + std::to_string(count) + '}', more);
  }
  void run(const std::string& json, bool more) {
    const std::size_t exits = loaded->bundle.exits(), before = allocations;
    read_request(json, loaded->bundle, request);
    reading = std::max(reading, allocations - before);
    if (more) {  // a policy of the caller's
      request.has_policy = true;
      request.policy = loaded->bundle.policy();
      for (ExitRule& rule : request.policy.exits) rule.upper = rule.lower = 4;
      request.policy.quorum = 2;
      request.policy.top_k = {3, true, std::vector<float>(exits - 1, 4), std::vector<float>(exits - 1, 4)};
    }
    const std::size_t read = allocations;
    session.score(request, Clock::now(), stats);
    session.trace(request, Clock::now(), stats);
    allocation_count += allocations - read;
  }
  std::size_t reading = 0;  // most allocations of the parser for a request
  std::size_t allocation_count = 0;
};

TEST_P(AllocationsTest, NoneWhenRequestsRepeat) {
  session.warm_up();
  for (const bool more : {false, true}) score(3, 20, more);
  EXPECT_GT(allocation_count, 0u);  // the counter counts
  allocation_count = 0;
  for (const bool more : {false, true})
    for (const std::size_t count : {20u, 7u, 1u}) score(3, count, more);
  EXPECT_EQ(allocation_count, 0u);
}

// The parser's own, however many candidates there are.
TEST_P(AllocationsTest, AFewToReadARequest) {
  score(3, 20, true);
  reading = 0;
  score(3, 1, true);
  const std::size_t few = reading;
  score(3, 20, true);
  EXPECT_EQ(reading, few);
  EXPECT_LE(few, 12u);
}

TEST_P(AllocationsTest, NoneForOtherUsersWhenTheCacheIsFull) {
  const auto round = [&] {
    allocation_count = 0;
    for (std::int64_t user = 0; user < 12; ++user) score(user, 20, false);
    return allocation_count;
  };
  for (int n = 0; n < 8; ++n) round();  // until every entry of the cache has the size of its longest prefix
  for (int n = 0; n < 4; ++n) EXPECT_EQ(round(), 0u);
}

// By token ids, also without a catalog.
class TokenAllocationsTest : public AllocationsTest {
 protected:
  void score_tokens(std::int32_t first, std::size_t count) {
    const auto list = [first](std::size_t tokens) {
      std::string json = "[" + std::to_string(first);
      for (std::size_t t = 1; t < tokens; ++t) json += "," + std::to_string(first);
      return json + "]";
    };
    std::string json = "{\"prefix\": " + list(20) + ", \"candidates\": [" + list(3);
    for (std::size_t i = 1; i < count; ++i) json += "," + list(3);
    run(json + "]}", false);
  }
};

TEST_P(TokenAllocationsTest, NoneWhenRequestsRepeat) {
  session.warm_up();
  score_tokens(3, 20);
  EXPECT_GT(allocation_count, 0u);
  allocation_count = 0;
  for (const std::size_t count : {20u, 7u, 1u}) score_tokens(3, count);
  EXPECT_EQ(allocation_count, 0u);
}

INSTANTIATE_TEST_SUITE_P(Bundles, TokenAllocationsTest, testing::Values("sound", "no_catalog", "sound_with_start"));

INSTANTIATE_TEST_SUITE_P(Bundles, AllocationsTest,
                         testing::Values("sound", "sound_with_start", "sound_with_zero", "policy_that_reads_earlier_heads"));

struct Serial final : kernels::Threads {
  // Like the arena in the tests of ONNX Runtime's memory.
  void* allocate(std::size_t bytes) const override {
    EXPECT_LE(bytes, sizeof memory);
    most = std::max(most, bytes);
    ++in_use;
    return memory;
  }
  void release(void*) const noexcept override { --in_use; }
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    for (std::size_t i = 0; i < count; ++i) function(data, i);
  }

  alignas(kernels::cache_line) mutable std::byte memory[1 << 16] = {};
  mutable std::size_t most = 0, in_use = 0;
};

TEST(KernelAllocations, NoneInAThreadThatRanThemBefore) {
  const std::vector<float> x(4 * 9 * 16), weight(16);
  const std::vector<std::int64_t> groups(9);
  std::vector<float> out(x.size()), scales(36);
  std::vector<std::uint8_t> values(x.size());
  std::vector<std::uint16_t> rounded(x.size());
  const std::vector<std::uint16_t> panel(16 * 16);
  const auto all = [&](std::size_t tokens) {
    const std::size_t before = allocations;
    kernels::attend({x.data(), x.data(), x.data(), x.data(), x.data(), groups.data(), out.data(), 4, 2, tokens, 5, 16, 1},
                    Serial{});
    kernels::quantize_rows(x.data(), {values.data(), scales.data(), 4 * tokens, 16}, Serial{});
    kernels::rms_norm_quantize_rows(x.data(), weight.data(), 1, {values.data(), scales.data(), 4 * tokens, 16}, Serial{});
    kernels::layer_norm_quantize_rows({x.data(), x.data(), weight.data(), weight.data(), weight.data(), 1, out.data()},
                                      {values.data(), scales.data(), 4 * tokens, 16}, Serial{});
    kernels::activate_quantize_rows(kernels::Activation::gelu, x.data(), weight.data(),
                                    {values.data(), scales.data(), 4 * tokens, 16}, Serial{});
    kernels::gated_quantize_rows(kernels::Activation::silu, x.data(), x.data(), scales.data(),
                                 {values.data(), scales.data(), 4 * tokens, 16}, Serial{});
    kernels::scale_add_rows(x.data(), scales.data(), {x.data(), 16}, out.data(), 4 * tokens, 16, Serial{});
    kernels::round_rows(x.data(), {rounded.data(), 4 * tokens, 16}, Serial{});
    kernels::rms_norm_round_rows(x.data(), weight.data(), 1, {rounded.data(), 4 * tokens, 16}, Serial{});
    kernels::swiglu_round_rows(x.data(), x.data(), {rounded.data(), 4 * tokens, 16}, Serial{});
    const kernels::PanelProduct product{rounded.data(), panel.data(), {x.data(), 16}, out.data(), 4 * tokens, 16, 1, 16};
    kernels::multiply_panels(product, Serial{});
    kernels::multiply_activate_round_rows(kernels::Activation::gelu, product, {rounded.data(), 4 * tokens, 16}, Serial{});
    kernels::multiply_layer_norm_round_rows(product, {nullptr, x.data(), weight.data(), weight.data(), nullptr, 1, out.data()},
                                            {rounded.data(), 4 * tokens, 16}, Serial{});
    return allocations - before;
  };
  EXPECT_GT(all(9), 0u);
  for (const std::size_t tokens : {9u, 3u}) EXPECT_EQ(all(tokens), 0u);
}

// Where they are counted and trimmed: no thread keeps them for its next call.
TEST(KernelAllocations, PackedKeysAndValuesAreInTheCallersMemory) {
  constexpr std::size_t tokens = 9, prefix = 5, kv_heads = 2, dim = 16;
  const std::vector<float> x(4 * tokens * dim);
  const std::vector<std::uint16_t> halves(x.size());
  const std::vector<std::int64_t> groups(tokens);
  std::vector<float> out(x.size());
  const Serial serial{};
  kernels::attend({x.data(), halves.data(), halves.data(), halves.data(), halves.data(), groups.data(), out.data(), 4, kv_heads,
                   tokens, prefix, dim, 1},
                  serial);
  EXPECT_GE(serial.most, 2 * kv_heads * dim * (prefix + tokens) * sizeof(float));
  EXPECT_EQ(serial.in_use, 0u);
}

// In new threads, without memory of earlier tasks. An exception that leaves a thread ends the process.
struct TwoThreads final : kernels::Threads {
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes, std::align_val_t(kernels::cache_line)); }
  void release(void* memory) const noexcept override { ::operator delete(memory, std::align_val_t(kernels::cache_line)); }
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    std::thread first([&] {
      for (std::size_t i = 0; i < count; i += 2) function(data, i);
    });
    std::thread second([&] {
      for (std::size_t i = 1; i < count; i += 2) function(data, i);
    });
    first.join();
    second.join();
  }
};

TEST(KernelAllocations, ATaskWithoutMemoryIsReportedToTheCaller) {
  constexpr std::size_t tokens = 60, prefix = 5000, width = 250'000;
  const std::vector<float> x(8 * tokens * 16), past(2 * prefix * 16), row(width);
  const std::vector<std::int64_t> groups(tokens);
  std::vector<float> out(x.size()), scales(1);
  std::vector<std::uint8_t> values(width);
  const auto attend = [&] {
    kernels::attend(
        {x.data(), x.data(), x.data(), past.data(), past.data(), groups.data(), out.data(), 8, 2, tokens, prefix, 16, 1},
        TwoThreads{});
  };
  const auto normalize = [&] {
    kernels::rms_norm_quantize_rows(row.data(), row.data(), 1, {values.data(), scales.data(), 1, width}, TwoThreads{});
  };
  too_large = 700'000;  // a block's scores are 980 kB, all keys 660
  EXPECT_THROW(attend(), std::bad_alloc);
  EXPECT_THROW(normalize(), std::bad_alloc);
  too_large = static_cast<std::size_t>(-1);
  attend();
  normalize();
}

// ONNX Runtime's C code calls the log: an exception that crossed it would end the process.
TEST(LogAllocations, WithoutMemoryALineIsLost) {
  too_large = 0;
  forward_log(nullptr, ORT_LOGGING_LEVEL_WARNING, "", "", "session.cc", "a line that is longer than a short string");
  too_large = static_cast<std::size_t>(-1);
}

}  // namespace

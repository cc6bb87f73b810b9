// Padded passes give the same answers: actually run, on the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "backends/onnxruntime/backend_ort.hpp"
#include "backends/tensorrt/buckets.hpp"
#include "bundles.hpp"
#include "session/session.hpp"

using namespace rexit::core;

namespace {

TEST(Buckets, SizesAreRoundedUpWithinTheMaximum) {
  const auto expect = [](const PassSizes& sizes, std::size_t tokens, std::size_t prefix, std::size_t rows, std::size_t vectors) {
    EXPECT_EQ(sizes.tokens, tokens);
    EXPECT_EQ(sizes.prefix, prefix);
    EXPECT_EQ(sizes.rows, rows);
    EXPECT_EQ(sizes.vectors, vectors);
  };
  const OptimizationProfile roomy{{1, 4096}, {1, 4096}, {1, 4096}}, narrow{{1, 39}, {1, 9}, {1, 10}};
  expect(bucket_of({1, 7, 1, 0}, roomy), 32, 32, 32, 0);
  expect(bucket_of({32, 32, 8, 16}, roomy), 32, 32, 32, 32);
  expect(bucket_of({33, 1, 9, 33}, roomy), 64, 32, 64, 64);
  expect(bucket_of({511, 513, 9, 0}, roomy), 512, 576, 512, 0);  // steps of 32, and of 64 from 512 on
  expect(bucket_of({1025, 2047, 9, 0}, roomy), 1152, 2048, 1152, 0);
  expect(bucket_of({33, 1, 9, 33}, narrow), 39, 9, 10, 39);
  expect(bucket_of({39, 9, 10, 39}, narrow), 39, 9, 10, 39);
}

// Keys and values of a prefix with padding behind it.
struct Past {
  std::size_t heads, row, rows, layers;
  std::vector<std::vector<std::byte>> tensors;
  std::vector<const void*> keys, values;

  Past(const Model& model, const Segment& segment, std::size_t padded_rows)
      : heads(model.kv_heads),
        row(segment.cache_width(model) * bytes_of(segment.cache_dtype)),
        rows(padded_rows),
        layers(segment.layers()) {}

  void add(const Pass& pass) {
    for (const auto& [from, to] : {std::pair{pass.past_keys, &keys}, std::pair{pass.past_values, &values}})
      for (std::size_t i = 0; i < layers; ++i) {
        std::vector<std::byte>& tensor = tensors.emplace_back(heads * rows * row, std::byte{0x2a});  // finite in any dtype
        for (std::size_t h = 0; h < heads; ++h)
          if (pass.prefix != 0)
            std::memcpy(tensor.data() + h * rows * row, static_cast<const std::byte*>(from[i]) + h * pass.prefix * row,
                        pass.prefix * row);
        to->push_back(tensor.data());
      }
  }
};

// ONNX Runtime on the CPU, with slates padded as the TensorRT backend pads them.
class Padded final : public Backend {
 public:
  Padded(const Bundle& bundle, std::unique_ptr<Backend> inner) : bundle_(bundle), inner_(std::move(inner)) {}

  void run(std::size_t segment, const Pass& pass) const override {
    const Segment& graph = bundle_.variant().segments[segment];
    if (pass.logits == nullptr) return run_prefix(graph, segment, pass);
    const PassSizes sizes = bucket_of(sizes_of(pass), {{1, 1000}, {1, 1000}, {1, 1000}});
    const std::size_t row = bundle_.model().hidden_size * bytes_of(graph.hidden_dtype);
    std::vector<std::int64_t> tokens(sizes.tokens), positions(sizes.tokens), groups(sizes.tokens), rows(sizes.rows);
    pad_indices(pass, sizes, graph.first ? tokens.data() : nullptr, positions.data(), groups.data(), rows.data());
    std::vector<std::byte> in(sizes.tokens * row), out(sizes.tokens * row);
    std::vector<float> logits(2 * sizes.rows);
    Pass padded = pass;
    Past past(bundle_.model(), graph, sizes.prefix);
    if (bundle_.variant().past_padding) {
      past.add(pass);
      padded.prefix = sizes.prefix;
      padded.past_keys = past.keys.data();
      padded.past_values = past.values.data();
    }
    padded.tokens = sizes.tokens;
    padded.rows = sizes.rows;
    padded.positions = positions.data();
    padded.groups = groups.data();
    padded.row_index = rows.data();
    padded.logits = logits.data();
    std::vector<float> vectors(sizes.vectors * bundle_.model().hidden_size, 77.0f);
    if (graph.first) {
      padded.token_ids = tokens.data();
      std::copy_n(pass.vectors, pass.vector_rows * bundle_.model().hidden_size, vectors.data());
      padded.vectors = vectors.data();
      padded.vector_rows = sizes.vectors;
    } else {
      std::memcpy(in.data(), pass.hidden_in, pass.tokens * row);
      padded.hidden_in = in.data();
    }
    if (pass.hidden_out != nullptr) padded.hidden_out = out.data();
    inner_->run(segment, padded);
    if (pass.hidden_out != nullptr) std::memcpy(pass.hidden_out, out.data(), pass.tokens * row);
    std::copy_n(logits.data(), 2 * pass.rows, pass.logits);
    padding += sizes.tokens - pass.tokens;
  }
  void* allocate(std::size_t bytes) const override { return inner_->allocate(bytes); }
  void release(void* memory) const noexcept override { inner_->release(memory); }
  void copy(void* to, const void* from, std::size_t bytes) const override { inner_->copy(to, from, bytes); }

  mutable std::size_t padding = 0;

 private:
  void run_prefix(const Segment& graph, std::size_t segment, const Pass& pass) const {
    Pass padded = pass;
    Past past(bundle_.model(), graph, 1);
    if (bundle_.variant().past_padding && pass.prefix == 0) {
      past.add(pass);
      padded.prefix = 1;
      padded.past_keys = past.keys.data();
      padded.past_values = past.values.data();
    }
    inner_->run(segment, padded);
  }

  const Bundle& bundle_;
  std::unique_ptr<Backend> inner_;
};

class PaddingTest : public testing::TestWithParam<std::pair<std::string, const char*>> {};

TEST_P(PaddingTest, ChangesNoAnswer) {
  std::shared_ptr<const Padded> padded;
  const auto open = [&](bool pad) {
    return std::make_shared<const LoadedBundle>(open_source(GetParam().first), GetParam().second,
                                                [&](const Bundle& bundle) -> BackendFactory {
                                                  std::unique_ptr<Backend> cpu = make_ort_backend(bundle, {}, Provider::cpu);
                                                  std::shared_ptr<const Backend> backend;
                                                  if (pad)
                                                    backend = padded = std::make_shared<const Padded>(bundle, std::move(cpu));
                                                  else
                                                    backend = std::move(cpu);
                                                  return [backend] { return backend; };
                                                });
  };
  Session plain(open(false), 0), filled(open(true), 0);
  // Padding changes the order of sums. In half precision another last bit of a key follows.
  const double tolerance = plain.loaded().bundle.variant().precision == "fp16" ? 1e-3 : 1e-4;
  for (const std::optional<Row> user :
       {std::optional<Row>(0), std::optional<Row>(2), std::optional<Row>(5), std::optional<Row>()})
    for (const std::size_t count : {1u, 4u, 9u, 20u}) {
      Request request;
      request.query.user = user;
      for (std::size_t i = 0; i < count; ++i) request.query.items.push_back(static_cast<Row>(i));
      rexit_stats stats{};
      const std::vector<float> expected = plain.trace(request, Clock::now(), stats);
      const std::vector<float>& log_odds = filled.trace(request, Clock::now(), stats);
      ASSERT_EQ(log_odds.size(), expected.size());
      for (std::size_t i = 0; i < log_odds.size(); ++i)
        EXPECT_NEAR(log_odds[i], expected[i], tolerance * (1 + std::abs(expected[i]))) << count << " items, " << i;
    }
  EXPECT_GT(padded->padding, 0u);
}

INSTANTIATE_TEST_SUITE_P(Graphs, PaddingTest,
                         testing::Values(std::pair{sound_bundle(), "cpu-fp32"},
                                         std::pair{tensorrt_bundles() + "/sound/bundle", "tensorrt-fp16"},
                                         std::pair{bundles() + "/sound_with_vectors/bundle", "cpu-fp32"},
                                         std::pair{tensorrt_bundles() + "/sound_with_vectors/bundle", "tensorrt-fp16"}));

}  // namespace

// Replaces runtime/src/backends/backend.cpp by a backend without ONNX Runtime. It checks Pass's promises, reads every input byte
// and writes every output byte. Fast, and fully instrumented.
#include <cmath>
#include <cstring>

#include "session/host_backend.hpp"
#include "target.hpp"

namespace rexit::core {
namespace {

// A real graph's shapes would refuse a manifest that contradicts them; here there is no graph.
constexpr std::size_t most_width = 64, most_layers = 8;

class Double final : public HostBackend {
 public:
  explicit Double(const Bundle& bundle)
      : model_(bundle.model()), segments_(bundle.variant().segments), max_positions_(bundle.variant().max_positions) {}

  void run(std::size_t index, const Pass& pass) const override {
    const Segment& segment = segments_.at(index);
    const Model& model = model_;
    const std::size_t hidden = pass.tokens * model.hidden_size * bytes_of(segment.hidden_dtype);
    const std::size_t row = model.kv_heads * model.head_dim * bytes_of(segment.cache_dtype);
    REXIT_PROMISE(pass.tokens > 0 && pass.rows > 0);
    std::uint32_t sum = static_cast<std::uint32_t>(index);
    for (std::size_t t = 0; t < pass.tokens; ++t) {
      REXIT_PROMISE(pass.positions[t] >= 0 && static_cast<std::size_t>(pass.positions[t]) < max_positions_);
      REXIT_PROMISE(pass.groups[t] >= 0);
      sum = sum * 31 + static_cast<std::uint32_t>(pass.positions[t] + pass.groups[t]);
    }
    if (segment.first) {
      const auto end = static_cast<std::int64_t>(model.vocab_size);
      for (std::size_t t = 0; t < pass.tokens; ++t) {
        REXIT_PROMISE(pass.token_ids[t] >= 0 && pass.token_ids[t] < end);
        sum = sum * 31 + static_cast<std::uint32_t>(pass.token_ids[t]);
      }
    } else {
      sum = read(pass.hidden_in, hidden, sum);
    }
    for (std::size_t n = 0; n < pass.rows; ++n)
      REXIT_PROMISE(pass.row_index[n] >= 0 && static_cast<std::size_t>(pass.row_index[n]) < pass.tokens);
    for (std::size_t i = 0; pass.prefix != 0 && i < segment.layers(); ++i) {
      sum = read(pass.past_keys[i], pass.prefix * row, sum);
      sum = read(pass.past_values[i], pass.prefix * row, sum);
    }
    if (pass.hidden_out != nullptr) fill(pass.hidden_out, hidden);
    for (std::size_t i = 0; pass.new_keys != nullptr && i < segment.layers(); ++i) {
      fill(pass.new_keys[i], pass.tokens * row);
      fill(pass.new_values[i], pass.tokens * row);
    }
    for (std::size_t n = 0; pass.logits != nullptr && n < pass.rows; ++n) {
      sum = sum * 1664525u + 1013904223u;
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = static_cast<float>(static_cast<int>(sum >> 24) - 128) / 8;
    }
  }

 private:
  static std::uint32_t read(const void* data, std::size_t bytes, std::uint32_t sum) {
    const auto* at = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) sum += at[i];
    return sum;
  }
  // Finite as float32 and as float16.
  static void fill(void* data, std::size_t bytes) {
    if (bytes != 0) std::memset(data, 0x3c, bytes);
  }

  // Copies, as in the real backend: a reloaded bundle may outlive the bundle of its segments, and have other sizes.
  const Model model_;
  const std::vector<Segment> segments_;
  const std::size_t max_positions_;
};

// A row's log-odds are the number of its columns that are not NaN.
class DoubleZero final : public ZeroGraph {
 public:
  explicit DoubleZero(std::size_t width) : width_(width) {}
  void run(const float* numbers, std::size_t rows, float* log_odds) const override {
    for (std::size_t row = 0; row < rows; ++row) {
      log_odds[row] = 0;
      for (std::size_t i = 0; i < width_; ++i) log_odds[row] += std::isnan(numbers[row * width_ + i]) ? 0.0f : 1.0f;
    }
  }

 private:
  std::size_t width_;
};

}  // namespace

std::shared_ptr<const ZeroGraph> load_zero_graph(const Bundle& bundle, const Execution&) {
  return std::make_shared<const DoubleZero>(bundle.program().numbers.size());
}

BackendFactory make_backend_factory(const Bundle& bundle, const Execution&) {
  const Model& model = bundle.model();
  if (model.hidden_size > most_width || model.kv_heads > most_width || model.head_dim > most_width || model.layers > most_layers)
    fail(REXIT_BACKEND_FAILED, "the double has no such graph");
  return [backend = std::make_shared<const Double>(bundle)] { return backend; };
}

Conditions conditions_of(const Bundle&, const Execution&) { return {"cpu", 1, "x86_64", "1.20.0", ""}; }

}  // namespace rexit::core

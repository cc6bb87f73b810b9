#include "backends/tensorrt/pass_buffers.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

// Bytes of each buffer: the maximum over segments and profiles.
struct Sizes {
  std::size_t max_tokens = 0, inputs = 0, logits = 0, unused_outputs = 0, hidden = 0, padding_row = 1, working = 1;

  explicit Sizes(const std::vector<LoadedEngine>& engines) {
    for (const LoadedEngine& loaded : engines) {
      working = std::max(working, static_cast<std::size_t>(loaded.engine->getDeviceMemorySizeV2()));
      padding_row = std::max(padding_row, bytes_of(loaded.inputs[loaded.first_past_key], 1));
      for (const OptimizationProfile& profile : loaded.plan.profiles) add(loaded, profile);
    }
  }

  void add(const LoadedEngine& loaded, const OptimizationProfile& profile) {
    const std::size_t tokens = profile.tokens.max, rows = profile.rows.max;
    max_tokens = std::max(max_tokens, tokens);
    inputs = std::max(inputs, 3 * aligned(tokens * sizeof(std::int64_t)) + aligned(rows * sizeof(std::int64_t)));
    std::size_t outputs = 0;
    for (const TensorSpec& spec : loaded.outputs)
      outputs += aligned(bytes_of(spec, spec.dynamic == Dynamic::rows ? rows : tokens));
    unused_outputs = std::max(unused_outputs, outputs);
    logits = std::max(logits, bytes_of(loaded.outputs[loaded.logits()], rows));
    const auto add_hidden = [&](const TensorSpec& spec) {
      if (bytes_of(spec, 1) % address_alignment != 0) hidden = std::max(hidden, bytes_of(spec, tokens));
    };
    if (!loaded.is_first()) add_hidden(loaded.inputs[LoadedEngine::source]);
    if (loaded.has_hidden_output()) add_hidden(loaded.outputs[0]);
  }
};

}  // namespace

PassBuffers::PassBuffers(const cuda::Device& device, cuda::DeviceMemory& memory, const cuda::Stream& stream)
    : inputs(device, memory, stream),
      logits(device, memory, stream),
      unused_outputs(memory, stream),
      hidden_in(memory, stream),
      hidden_out(memory, stream),
      padding_row(memory, stream),
      working(memory, stream),
      device_buffers_{&unused_outputs, &hidden_in, &hidden_out, &padding_row, &working} {}

void PassBuffers::reserve(const std::vector<LoadedEngine>& engines, const cuda::Stream& stream) {
  const Sizes sizes(engines);
  max_tokens = sizes.max_tokens;
  // For the inputs of a prefix and of the slate that follows, and for the numbers of rows that move.
  inputs.reserve(2 * sizes.inputs + aligned(max_tokens * sizeof(std::int64_t)), "memory for inputs");
  logits.reserve(sizes.logits, "memory for logits");
  unused_outputs.reserve(sizes.unused_outputs, "device memory for outputs");
  hidden_in.reserve(sizes.hidden, "device memory for hidden states");
  hidden_out.reserve(sizes.hidden, "device memory for hidden states");
  padding_row.reserve(sizes.padding_row, "device memory for padding");
  cuda::check(cuda::api().cudaMemsetAsync(padding_row.data(), 0, sizes.padding_row, stream.get()), "clearing padding");
  working.reserve(sizes.working, "device memory for the engines");
}

void PassBuffers::release() noexcept {
  for (cuda::MirroredBuffer* buffer : {&inputs, &logits}) buffer->release();
  for (cuda::DeviceBuffer* buffer : device_buffers_) buffer->release();
}

std::size_t PassBuffers::device_bytes() const noexcept {
  std::size_t sum = inputs.device_bytes() + logits.device_bytes();
  for (const cuda::DeviceBuffer* buffer : device_buffers_) sum += buffer->bytes();
  return sum;
}

}  // namespace rexit::core

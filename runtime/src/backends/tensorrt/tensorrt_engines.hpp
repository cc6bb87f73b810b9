// A variant's engines, loaded by TensorRT and checked against the bundle.
#pragma once

#include <NvInfer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/segment_tensors.hpp"
#include "bundle/engines.hpp"

namespace rexit::core {

// Returns TensorRT's last error in this thread, as a line, and clears it.
std::string take_tensorrt_error();
void clear_tensorrt_error() noexcept;

// A loaded plan, with its inputs and outputs in the order of segment_inputs() and segment_outputs().
struct LoadedEngine {
  // Indices into `inputs`. The other past keys and values follow.
  static constexpr std::size_t source = 0, positions = 1, groups = 2, rows = 3, first_past_key = 4;

  Plan plan;
  std::vector<TensorSpec> inputs, outputs;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;

  bool is_first() const noexcept { return inputs[source].type == TensorType::int64; }
  std::size_t layers() const noexcept { return (inputs.size() - first_past_key) / 2; }
  std::size_t logits() const noexcept { return outputs.size() - 2 * layers() - 1; }  // index into `outputs`
  bool has_hidden_output() const noexcept { return logits() == 1; }                  // output 0

  // The profile for a pass of these sizes. Throws REXIT_TOO_LONG or REXIT_BACKEND_FAILED if no profile accepts them.
  std::size_t profile_for(const PassSizes& sizes) const;
};

// GPU `device` and TensorRT. Throws REXIT_BACKEND_MISSING if there is none, REXIT_INVALID_ARGUMENT if there is no GPU of this
// number.
Accelerator find_accelerator(std::int32_t device);

class TensorRtEngines {
 public:
  // For the GPU that is selected. Throws as make_tensorrt_factory does.
  TensorRtEngines(const Bundle& bundle, const Accelerator& here);

  const std::vector<LoadedEngine>& all() const noexcept { return engines_; }

 private:
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // must outlive the engines
  std::vector<LoadedEngine> engines_;
};

// A tensor's size in bytes and its shape for TensorRT, with size `dynamic` in its dynamic dimension.
std::size_t bytes_of(const TensorSpec& spec, std::size_t dynamic) noexcept;
nvinfer1::Dims dims_of(const TensorSpec& spec, std::size_t dynamic) noexcept;

}  // namespace rexit::core

// A variant's engines, loaded by TensorRT and checked against the bundle.
#pragma once

#include <NvInfer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/segment_tensors.hpp"
#include "backends/tensorrt/buckets.hpp"
#include "bundle/engines.hpp"

namespace rexit::core {

// TensorRT's last error in this thread, on one line. It is cleared, so that it cannot be taken for the reason of a later failure.
std::string take_tensorrt_error();
void forget_tensorrt_error() noexcept;

// A loaded plan, with its inputs and outputs in the order of segment_inputs() and segment_outputs().
struct LoadedEngine {
  Plan plan;
  std::vector<TensorSpec> inputs, outputs;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;

  // Input 4, before the past keys and values.
  bool takes_vectors() const noexcept { return inputs[4].dynamic == Dynamic::vectors; }
  std::size_t caches() const noexcept { return takes_vectors() ? 5 : 4; }  // the index of the first layer's past keys
  std::size_t layers() const noexcept { return (inputs.size() - caches()) / 2; }
  bool first() const noexcept { return inputs[0].type == TensorType::int64; }
  std::size_t logits() const noexcept { return outputs.size() - 2 * layers() - 1; }  // the index of output `logits`

  // The profile for a pass of these sizes. Throws REXIT_TOO_LONG or REXIT_BACKEND_FAILED if none accepts them.
  std::size_t profile_for(const PassSizes& sizes) const;
};

class TensorRtEngines {
 public:
  // For GPU `device`, which must be this thread's current one. Throws as make_tensorrt_factory does.
  TensorRtEngines(const Bundle& bundle, std::int32_t device);

  const std::vector<LoadedEngine>& all() const noexcept { return engines_; }

 private:
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // outlives what it loaded
  std::vector<LoadedEngine> engines_;
};

// A tensor's bytes, and its shape for TensorRT, when its dynamic dimension has size `dynamic`.
std::size_t bytes_of(const TensorSpec& spec, std::size_t dynamic) noexcept;
nvinfer1::Dims dims_of(const TensorSpec& spec, std::size_t dynamic) noexcept;

}  // namespace rexit::core

// Execution contexts, and the addresses and shapes of the pass that runs on one.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "backends/nvidia/cuda.hpp"
#include "backends/tensorrt/pass_buffers.hpp"
#include "backends/tensorrt/pass_sizes.hpp"
#include "backends/tensorrt/tensorrt_engines.hpp"

namespace rexit::core {

using ExecutionContext = std::unique_ptr<nvinfer1::IExecutionContext>;

// A context for passes of `profile`. It gets its memory first: selecting a profile may already use it. Throws
// REXIT_BACKEND_FAILED.
ExecutionContext make_context(const LoadedEngine& loaded, std::size_t profile, const PassBuffers& buffers,
                              const cuda::Stream& stream);

// Addresses of a segment's inputs and outputs, in the order of LoadedEngine.
struct BoundPass {
  // Inputs that get no other address are padding, outputs that get none are discarded.
  void reset(const LoadedEngine& loaded, const PassBuffers& buffers);
  // Throws REXIT_BACKEND_FAILED if TensorRT rejects a tensor.
  void bind(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const PassSizes& sizes, const PassBuffers& buffers);

  std::vector<const void*> inputs;
  std::vector<void*> outputs;
};

void enqueue(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const cuda::Stream& stream);

}  // namespace rexit::core

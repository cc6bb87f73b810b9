#include "backends/tensorrt/bound_pass.hpp"

#include "base/status.hpp"

namespace rexit::core {
namespace {

[[noreturn]] void fail_rejected(const LoadedEngine& loaded, const TensorSpec& spec) {
  fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT rejected tensor `", spec.name, "`: ", take_tensorrt_error());
}

}  // namespace

ExecutionContext make_context(const LoadedEngine& loaded, std::size_t profile, const PassBuffers& buffers,
                              const cuda::Stream& stream) {
  clear_tensorrt_error();
  ExecutionContext context(loaded.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (context != nullptr) context->setDeviceMemoryV2(buffers.working.data(), static_cast<std::int64_t>(buffers.working.bytes()));
  if (context == nullptr || !context->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), stream.get()))
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not create an execution context: ", take_tensorrt_error());
  return context;
}

void BoundPass::reset(const LoadedEngine& loaded, const PassBuffers& buffers) {
  inputs.assign(loaded.inputs.size(), buffers.padding_row.data());
  outputs.assign(loaded.outputs.size(), nullptr);
  outputs[loaded.logits()] = buffers.logits.device();
}

void BoundPass::bind(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const PassSizes& sizes,
                     const PassBuffers& buffers) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const TensorSpec& spec = loaded.inputs[i];
    // const_cast: TensorRT only reads its inputs.
    if (!context.setInputShape(spec.name.c_str(), dims_of(spec, sizes.size(spec.dynamic))) ||
        !context.setTensorAddress(spec.name.c_str(), const_cast<void*>(inputs[i])))
      fail_rejected(loaded, spec);
  }
  std::byte* unused = buffers.unused_outputs.data();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const TensorSpec& spec = loaded.outputs[i];
    if (outputs[i] == nullptr) {
      outputs[i] = unused;
      unused += aligned(bytes_of(spec, sizes.size(spec.dynamic)));
    }
    if (!context.setTensorAddress(spec.name.c_str(), outputs[i])) fail_rejected(loaded, spec);
  }
}

void enqueue(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const cuda::Stream& stream) {
  if (!context.enqueueV3(stream.get()))
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not run the engine: ", take_tensorrt_error());
}

}  // namespace rexit::core

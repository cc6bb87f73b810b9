#include "backends/tensorrt/worker.hpp"

#include <array>
#include <cstring>
#include <utility>

#include "base/status.hpp"

namespace rexit::core {
namespace {

[[noreturn]] void fail_rejected(const LoadedEngine& loaded, const TensorSpec& spec) {
  fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT rejected tensor `", spec.name, "`: ", take_tensorrt_error());
}

}  // namespace

Worker::Worker(const cuda::Device& device, cuda::DeviceMemory& memory, const std::vector<LoadedEngine>& engines)
    : engines_(engines), stream_("a stream"), buffers_(device, memory, stream_), move_buffer_(memory, stream_) {
  reserve_memory();
  for (const LoadedEngine& loaded : engines) {
    contexts_.emplace_back();
    for (std::size_t p = 0; p < loaded.plan.profiles.size(); ++p) contexts_.back().push_back(make_context(loaded, p));
  }
}

Worker::~Worker() { wait_nothrow(); }

void Worker::reserve_memory() {
  buffers_.reserve(engines_, stream_);
  has_memory_ = true;
}

// A context gets its memory first: selecting a profile may already use it.
Worker::ExecutionContext Worker::make_context(const LoadedEngine& loaded, std::size_t profile) const {
  clear_tensorrt_error();
  ExecutionContext context(loaded.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (context != nullptr)
    context->setDeviceMemoryV2(buffers_.working.data(), static_cast<std::int64_t>(buffers_.working.bytes()));
  if (context == nullptr || !context->setOptimizationProfileAsync(static_cast<std::int32_t>(profile), stream_.get()))
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not create an execution context: ", take_tensorrt_error());
  return context;
}

void Worker::release_memory() noexcept {
  wait_nothrow();
  buffers_.release();
  move_buffer_.release();
  has_memory_ = false;
  wait_nothrow();  // so that the pool can return the memory
}

void Worker::run(std::size_t segment, const Pass& pass) {
  clear_tensorrt_error();
  if (!has_memory_) {
    reserve_memory();
    for (std::vector<ExecutionContext>& contexts : contexts_)
      for (ExecutionContext& context : contexts)
        context->setDeviceMemoryV2(buffers_.working.data(), static_cast<std::int64_t>(buffers_.working.bytes()));
  }
  const LoadedEngine& loaded = engines_[segment];
  const PassSizes sizes(pass, 1);
  nvinfer1::IExecutionContext& context = *contexts_[segment][loaded.profile_for(sizes)];
  // Inputs that get no other address are padding, outputs that get none are discarded.
  inputs_.assign(loaded.inputs.size(), buffers_.padding_row.data());
  outputs_.assign(loaded.outputs.size(), nullptr);
  outputs_[loaded.logits()] = buffers_.logits.device();
  upload_inputs(loaded, pass);
  if (!loaded.is_first()) inputs_[LoadedEngine::source] = aligned_hidden(loaded, pass);
  const std::size_t layers = loaded.layers(), logits = loaded.logits();
  for (std::size_t i = 0; pass.prefix != 0 && i < layers; ++i) {
    inputs_[loaded.first_past_key + i] = pass.past_keys[i];
    inputs_[loaded.first_past_key + layers + i] = pass.past_values[i];
  }
  const bool via_aligned_copy = loaded.has_hidden_output() && pass.hidden_out != nullptr && !is_aligned(pass.hidden_out);
  if (loaded.has_hidden_output()) outputs_[0] = via_aligned_copy ? buffers_.hidden_out.data() : pass.hidden_out;
  for (std::size_t i = 0; pass.new_keys != nullptr && i < layers; ++i) {
    outputs_[logits + 1 + i] = pass.new_keys[i];
    outputs_[logits + 1 + layers + i] = pass.new_values[i];
  }
  bind(context, loaded, sizes);
  if (!context.enqueueV3(stream_.get()))
    fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not run the engine: ", take_tensorrt_error());
  if (via_aligned_copy) copy(pass.hidden_out, buffers_.hidden_out.data(), bytes_of(loaded.outputs[0], pass.tokens));
  if (pass.logits == nullptr) return;  // readers of the other outputs come later on the stream
  buffers_.logits.download(bytes_of(loaded.outputs[loaded.logits()], sizes.rows), loaded.plan.path + ": copying logits");
  wait(loaded.plan.path);
  std::memcpy(pass.logits, buffers_.logits.host(), bytes_of(loaded.outputs[loaded.logits()], pass.rows));
}

void Worker::bind(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const PassSizes& sizes) {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const TensorSpec& spec = loaded.inputs[i];
    // const_cast: TensorRT only reads its inputs.
    if (!context.setInputShape(spec.name.c_str(), dims_of(spec, sizes.size(spec.dynamic))) ||
        !context.setTensorAddress(spec.name.c_str(), const_cast<void*>(inputs_[i])))
      fail_rejected(loaded, spec);
  }
  std::byte* unused = buffers_.unused_outputs.data();
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const TensorSpec& spec = loaded.outputs[i];
    if (outputs_[i] == nullptr) {
      outputs_[i] = unused;
      unused += aligned(bytes_of(spec, sizes.size(spec.dynamic)));
    }
    if (!context.setTensorAddress(spec.name.c_str(), outputs_[i])) fail_rejected(loaded, spec);
  }
}

// CUDA does not copy between overlapping ranges, so they go through a buffer.
void Worker::copy(void* to, const void* from, std::size_t bytes) {
  const auto copy_on_stream = [&](void* target, const void* source) {
    cuda::check(cuda::api().cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_.get()), "copying hidden states");
  };
  const auto a = reinterpret_cast<std::uintptr_t>(to), b = reinterpret_cast<std::uintptr_t>(from);
  if ((a < b ? b - a : a - b) >= bytes) {
    copy_on_stream(to, from);
    return;
  }
  std::byte* buffer = move_buffer_.reserve(bytes, "device memory for moving hidden states");
  copy_on_stream(buffer, from);
  copy_on_stream(to, buffer);
}

void Worker::copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes,
                       std::size_t count) {
  cuda::check(cuda::api().cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, count, cudaMemcpyDefault, stream_.get()),
              "copying keys and values");
}

void Worker::move_rows(void* rows, std::size_t bytes, const RowMove* moves, std::size_t count) {
  auto* const data = static_cast<std::byte*>(rows);
  for (const RowMove* move = moves; move != moves + count; ++move)
    copy(data + move->to * bytes, data + move->from * bytes, move->count * bytes);
}

void Worker::wait(const std::string& where) {
  inputs_used_ = 0;
  cuda::check(cuda::api().cudaStreamSynchronize(stream_.get()), where);
}

void Worker::wait_nothrow() noexcept {
  inputs_used_ = 0;
  cuda::api().cudaStreamSynchronize(stream_.get());
}

// Returns where `bytes` begin in buffers_.inputs. They must not be overwritten before the work that reads them has finished,
// which the next wait for logits guarantees.
std::size_t Worker::allocate_inputs(std::size_t bytes, const std::string& where) {
  if (inputs_used_ + bytes > buffers_.inputs.bytes()) wait(where);
  const std::size_t begin = inputs_used_;
  inputs_used_ += bytes;
  return begin;
}

// Gathers indices in pinned memory and copies them to the device asynchronously.
void Worker::upload_inputs(const LoadedEngine& loaded, const Pass& pass) {
  const std::size_t tokens = pass.tokens * sizeof(std::int64_t), rows = pass.rows * sizeof(std::int64_t);
  const std::array<std::pair<const void*, std::size_t>, 4> parts{{{pass.token_ids, loaded.is_first() ? tokens : 0},
                                                                  {pass.positions, tokens},
                                                                  {pass.groups, tokens},
                                                                  {pass.row_index, rows}}};
  std::size_t bytes = 0;
  for (const auto& [data, size] : parts) bytes += aligned(size);
  const std::size_t begin = allocate_inputs(bytes, loaded.plan.path);
  std::size_t end = begin;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].second != 0) std::memcpy(buffers_.inputs.host() + end, parts[i].first, parts[i].second);
    if (i < loaded.first_past_key) inputs_[i] = buffers_.inputs.device() + end;
    end += aligned(parts[i].second);
  }
  buffers_.inputs.upload(begin, bytes, loaded.plan.path + ": copying inputs");
}

// Hidden states may begin at any row: after a shared prefix, or at the start of a slate's chunk.
const void* Worker::aligned_hidden(const LoadedEngine& loaded, const Pass& pass) {
  if (is_aligned(pass.hidden_in)) return pass.hidden_in;
  copy(buffers_.hidden_in.data(), pass.hidden_in, bytes_of(loaded.inputs[LoadedEngine::source], pass.tokens));
  return buffers_.hidden_in.data();
}

}  // namespace rexit::core

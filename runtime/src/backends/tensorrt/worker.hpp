// Runs a session's passes: a stream, its execution contexts and its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "backends/nvidia/cuda.hpp"
#include "backends/tensorrt/pass_buffers.hpp"
#include "backends/tensorrt/tensorrt_engines.hpp"

namespace rexit::core {

// All work is ordered by the stream. The constructor creates all contexts and allocates everything, for the largest pass that the
// engines accept. The device must be selected for every call.
class Worker {
 public:
  // All must outlive the worker.
  Worker(const cuda::Device& device, cuda::DeviceMemory& memory, const std::vector<LoadedEngine>& engines);
  ~Worker();

  const cuda::Stream& stream() const noexcept { return stream_; }

  void run(std::size_t segment, const Pass& pass);

  // See Backend. Copies from and to host memory are complete when the stream has been waited for.
  void copy(void* to, const void* from, std::size_t bytes);
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t bytes, std::size_t count);
  void move_rows(void* rows, std::size_t bytes, const RowMove* moves, std::size_t count);

  // Waits for all work on the stream. Throws for errors on the GPU.
  void wait(const std::string& where);
  void wait_nothrow() noexcept;  // ignores errors

  // Releases the buffers, not the contexts, which would take long to create. The next run allocates buffers again.
  void release_memory() noexcept;
  std::size_t device_bytes() const noexcept { return buffers_.device_bytes() + move_buffer_.bytes(); }

 private:
  using ExecutionContext = std::unique_ptr<nvinfer1::IExecutionContext>;

  void reserve_memory();
  std::size_t allocate_inputs(std::size_t bytes, const std::string& where);
  void upload_inputs(const LoadedEngine& loaded, const Pass& pass);
  const void* aligned_hidden(const LoadedEngine& loaded, const Pass& pass);
  ExecutionContext make_context(const LoadedEngine& loaded, std::size_t profile) const;
  void bind(nvinfer1::IExecutionContext& context, const LoadedEngine& loaded, const PassSizes& sizes);

  const std::vector<LoadedEngine>& engines_;
  cuda::Stream stream_;
  PassBuffers buffers_;
  cuda::DeviceBuffer move_buffer_;
  bool has_memory_ = false;
  std::size_t inputs_used_ = 0;      // bytes of buffers_.inputs that running copies or passes may read
  std::vector<const void*> inputs_;  // addresses of the current pass, in the order of LoadedEngine
  std::vector<void*> outputs_;
  // [segments][profiles]: prefixes and slates alternate, and a context that switches profiles sets up its layers again.
  std::vector<std::vector<ExecutionContext>> contexts_;
};

}  // namespace rexit::core

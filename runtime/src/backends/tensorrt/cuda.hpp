// CUDA's runtime API with RAII, and errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.hpp"

namespace rexit::core::cuda {

// `action`: "segment-0.plan: copying inputs". Throws REXIT_OUT_OF_MEMORY or, for any other error, REXIT_BACKEND_FAILED.
inline void check(cudaError_t error, const std::string& action) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears it, or this thread's next call would report it again
  fail(error == cudaErrorMemoryAllocation ? REXIT_OUT_OF_MEMORY : REXIT_BACKEND_FAILED, action,
       ": CUDA: ", cudaGetErrorString(error));
}

// Selects `device` as this thread's GPU for a scope, then restores the caller's GPU.
class OnDevice {
 public:
  explicit OnDevice(int device) noexcept {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = device;
    changed_ = before_ != device && cudaSetDevice(device) == cudaSuccess;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// A stream that does not synchronise with other streams, including the legacy default stream.
class Stream {
 public:
  explicit Stream(const std::string& action) { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), action); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// A CUDA graph: a stream's work, captured once and launched as a whole.
class Graph {
 public:
  Graph() = default;
  ~Graph() {
    if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  bool ready() const noexcept { return exec_ != nullptr; }

  // Records the work that issue() puts on the stream, without running it.
  template <class Issue>
  void capture(const Stream& stream, const Issue& issue, const std::string& action) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), action);
    try {
      issue();
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream.get(), &graph), action);
    const cudaError_t error = cudaGraphInstantiateWithFlags(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, action);
  }
  void launch(const Stream& stream, const std::string& action) const { check(cudaGraphLaunch(exec_, stream.get()), action); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

inline std::string bytes_text(std::size_t bytes) { return std::to_string(bytes) + " bytes"; }

// Memory that only grows. Growing discards its contents and waits for the GPU.
template <cudaError_t (*allocate)(void**, std::size_t), cudaError_t (*release)(void*)>
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* reserve(std::size_t bytes, const std::string& what) {
    if (bytes > bytes_) {
      release(std::exchange(data_, nullptr));
      bytes_ = 0;
      check(allocate(&data_, bytes), what + " of " + bytes_text(bytes));
      bytes_ = bytes;
    }
    return static_cast<std::byte*>(data_);
  }
  std::byte* data() const noexcept { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

inline cudaError_t allocate_device(void** data, std::size_t bytes) { return cudaMalloc(data, bytes); }
inline cudaError_t release_device(void* data) { return cudaFree(data); }
inline cudaError_t allocate_pinned(void** data, std::size_t bytes) { return cudaMallocHost(data, bytes); }
inline cudaError_t release_pinned(void* data) { return cudaFreeHost(data); }

using DeviceBuffer = Buffer<allocate_device, release_device>;
using PinnedBuffer = Buffer<allocate_pinned, release_pinned>;  // host memory for asynchronous copies

}  // namespace rexit::core::cuda

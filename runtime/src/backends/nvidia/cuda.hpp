// CUDA's runtime API with RAII, and errors as exceptions.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "backends/nvidia/libraries.hpp"
#include "base/status.hpp"

namespace rexit::core::cuda {

// `action`: "segment-0.plan: copying inputs". Throws REXIT_OUT_OF_MEMORY or, for any other error, REXIT_BACKEND_FAILED.
inline void check(cudaError_t error, const std::string& action) {
  if (error == cudaSuccess) return;
  api().cudaGetLastError();  // clears it, or this thread's next call would report it again
  fail(error == cudaErrorMemoryAllocation ? REXIT_OUT_OF_MEMORY : REXIT_BACKEND_FAILED, action,
       ": CUDA: ", api().cudaGetErrorString(error));
}

// A GPU. Holds its primary context, which CUDA's runtime uses too.
class Device {
 public:
  // Throws REXIT_BACKEND_FAILED if the context cannot be created.
  explicit Device(int number);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  CUctx_st* context() const noexcept { return context_; }
  // Host memory is the GPU's memory, as on a Jetson: it can be mapped instead of copied.
  bool integrated() const noexcept { return integrated_; }
  bool has_memory_pools() const noexcept { return has_memory_pools_; }
  int number() const noexcept { return number_; }

 private:
  int number_, handle_ = 0;
  CUctx_st* context_ = nullptr;
  bool integrated_, has_memory_pools_;
};

// Selects a GPU for this thread and a scope. The caller's context is current again afterwards, or none. With cudaSetDevice,
// restoring the number 0 would create a context on GPU 0, which takes hundreds of megabytes there.
class OnDevice {
 public:
  explicit OnDevice(const Device& device) noexcept : pushed_(api().cuCtxPushCurrent_v2(device.context()) == 0) {}
  ~OnDevice() {
    CUctx_st* popped = nullptr;
    if (pushed_) api().cuCtxPopCurrent_v2(&popped);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  const bool pushed_;
};

// A stream that does not synchronise with other streams, including the legacy default stream.
class Stream {
 public:
  explicit Stream(const std::string& action) { check(api().cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), action); }
  ~Stream() { api().cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

inline std::string bytes_text(std::size_t bytes) { return std::to_string(bytes) + " bytes"; }

// GPU memory, in the order of a stream: neither allocating nor releasing waits for other streams, as cudaMalloc and cudaFree do.
// GPUs without memory pools fall back to these.
class DeviceMemory {
 public:
  explicit DeviceMemory(const Device& device);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Throws REXIT_OUT_OF_MEMORY. The memory belongs to work on `stream`.
  void* allocate(std::size_t bytes, const Stream& stream, const std::string& what);
  // Takes effect behind all work on `stream`.
  void release(void* memory, const Stream& stream) noexcept;
  // Returns released memory to the GPU, if the streams have finished with it.
  void trim() noexcept;

 private:
  cudaMemPool_t pool_ = nullptr;  // null: the GPU has none
};

// Memory that only grows until it is released. Growing discards its contents.
class DeviceBuffer {
 public:
  DeviceBuffer(DeviceMemory& memory, const Stream& stream) : memory_(memory), stream_(stream) {}
  ~DeviceBuffer() { release(); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::byte* reserve(std::size_t bytes, const std::string& what) {
    if (bytes > bytes_) {
      release();
      data_ = memory_.allocate(bytes, stream_, what + " of " + bytes_text(bytes));
      bytes_ = bytes;
    }
    return data();
  }
  void release() noexcept {
    if (data_ != nullptr) memory_.release(std::exchange(data_, nullptr), stream_);
    bytes_ = 0;
  }
  std::byte* data() const noexcept { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  DeviceMemory& memory_;
  const Stream& stream_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Pinned host memory and its counterpart on the GPU, at the same offsets. On an integrated GPU both are the same memory, and
// nothing is copied.
class MirroredBuffer {
 public:
  MirroredBuffer(const Device& device, DeviceMemory& memory, const Stream& stream)
      : mapped_(device.integrated()), stream_(stream), mirror_(memory, stream) {}
  ~MirroredBuffer() { release(); }
  MirroredBuffer(const MirroredBuffer&) = delete;
  MirroredBuffer& operator=(const MirroredBuffer&) = delete;

  // No work on the stream may use the buffer.
  void reserve(std::size_t bytes, const std::string& what);
  void release() noexcept;
  std::byte* host() const noexcept { return static_cast<std::byte*>(host_); }
  std::byte* device() const noexcept { return mapped_ ? static_cast<std::byte*>(alias_) : mirror_.data(); }
  std::size_t bytes() const noexcept { return bytes_; }
  std::size_t device_bytes() const noexcept { return mirror_.bytes(); }

  void upload(std::size_t offset, std::size_t bytes, const std::string& action) const;
  // Complete when the stream has been waited for.
  void download(std::size_t bytes, const std::string& action) const;

 private:
  const bool mapped_;
  const Stream& stream_;
  DeviceBuffer mirror_;  // unused if mapped_
  void *host_ = nullptr, *alias_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace rexit::core::cuda

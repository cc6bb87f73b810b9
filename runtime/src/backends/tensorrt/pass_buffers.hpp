// The memory of a session's passes, for the largest pass that the engines accept.
#pragma once

#include <cstddef>
#include <vector>

#include "backends/nvidia/cuda.hpp"
#include "backends/tensorrt/tensorrt_engines.hpp"

namespace rexit::core {

constexpr std::size_t address_alignment = 256;  // required by setTensorAddress; CUDA's allocations have at least that

inline std::size_t aligned(std::size_t bytes) { return (bytes + address_alignment - 1) / address_alignment * address_alignment; }

inline bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % address_alignment == 0; }

struct PassBuffers {
  PassBuffers(const cuda::Device& device, cuda::DeviceMemory& memory, const cuda::Stream& stream);

  // Allocates everything, and fills padding_row. Throws REXIT_OUT_OF_MEMORY.
  void reserve(const std::vector<LoadedEngine>& engines, const cuda::Stream& stream);
  // No work may use them.
  void release() noexcept;
  std::size_t device_bytes() const noexcept;

  cuda::MirroredBuffer inputs;  // indices of the passes since the last wait, and numbers of rows that move
  cuda::MirroredBuffer logits;
  cuda::DeviceBuffer unused_outputs;  // TensorRT writes every output
  cuda::DeviceBuffer hidden_in, hidden_out;
  cuda::DeviceBuffer padding_row;  // zeros: the past of a pass without a prefix
  cuda::DeviceBuffer working;      // the engines' layers; contexts run one after another, so they share it
  std::size_t max_tokens = 0;      // per pass

 private:
  cuda::DeviceBuffer* device_buffers_[5];
};

}  // namespace rexit::core

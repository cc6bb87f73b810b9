// Gathers rows of GPU memory in a single launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/nvidia/cuda.hpp"

namespace rexit::core::cuda {

// A kernel that the GPU's driver has compiled. The device must outlive it, and be selected for launch().
class RowGather {
 public:
  // Logs a warning if the driver refuses the kernel; then it is not ready.
  explicit RowGather(const Device& device);
  ~RowGather();
  RowGather(const RowGather&) = delete;
  RowGather& operator=(const RowGather&) = delete;

  // Whether launch() supports rows of this size: a multiple of 16 bytes.
  bool supports(std::size_t row_bytes) const noexcept { return kernel_ != nullptr && row_bytes % piece_bytes == 0; }

  // Copies row rows[i] of `from` to row i of `to`, for `count` rows. All are the GPU's addresses, `to` and `from` aligned to 16
  // bytes and not overlapping. Throws REXIT_BACKEND_FAILED.
  void launch(void* to, const void* from, const std::int64_t* rows, std::size_t row_bytes, std::size_t count,
              const Stream& stream) const;

 private:
  static constexpr std::size_t piece_bytes = 16;

  const Device& device_;
  CUmod_st* module_ = nullptr;
  CUfunc_st* kernel_ = nullptr;
};

}  // namespace rexit::core::cuda

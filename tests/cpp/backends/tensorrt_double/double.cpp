// The double as a shared library, in place of libcuda, libcudart and libnvinfer.
#include <NvInfer.h>

#include "backends/nvidia/libraries.hpp"

// What a kernel reads of its place in the grid.
#define __global__
namespace {
struct Index {
  unsigned x;
};
thread_local Index gridDim, blockDim, blockIdx, threadIdx;
}  // namespace
#include "backends/nvidia/gather_rows.cu"

namespace cuda_double {

void gather_rows(unsigned blocks, unsigned threads, std::byte* to, const std::byte* from, const std::byte* rows, unsigned pieces,
                 unsigned count) {
  gridDim = {blocks};
  blockDim = {threads};
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
      rexit_gather_rows(reinterpret_cast<Piece*>(to), reinterpret_cast<const Piece*>(from),
                        reinterpret_cast<const long long*>(rows), pieces, count);
}

Machine& machine() {
  static Machine only;
  return only;
}

std::vector<int>& current_devices() {
  thread_local std::vector<int> devices;
  return devices;
}

// An inline function is only in the library if something uses it.
#define REXIT_USE(name, ...) reinterpret_cast<void*>(&::name),
void* functions[] = {reinterpret_cast<void*>(&getInferLibVersion), reinterpret_cast<void*>(&createInferRuntime_INTERNAL),
                     REXIT_CUDA_FUNCTIONS(REXIT_USE) REXIT_DRIVER_FUNCTIONS(REXIT_USE)};

}  // namespace cuda_double

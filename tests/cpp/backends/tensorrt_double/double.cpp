// The double as a shared library, in place of libcuda, libcudart and libnvinfer.
#include <NvInfer.h>

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
template <class... Functions>
void use(Functions... functions) {
  const volatile void* volatile used = nullptr;
  ((used = reinterpret_cast<const volatile void*>(functions)), ...);
  static_cast<void>(used);
}

__attribute__((constructor)) void use_all() {
  use(getInferLibVersion, createInferRuntime_INTERNAL, cudaDeviceGetAttribute, cudaFree, cudaFreeAsync, cudaFreeHost,
      cudaGetDeviceCount, cudaGetErrorString, cudaGetLastError, cudaHostAlloc, cudaHostGetDevicePointer, cudaMalloc,
      cudaMallocFromPoolAsync, cudaMemPoolCreate, cudaMemPoolDestroy, cudaMemPoolSetAttribute, cudaMemPoolTrimTo,
      cudaMemcpy2DAsync, cudaMemcpyAsync, cudaMemsetAsync, cudaStreamCreateWithFlags, cudaStreamDestroy, cudaStreamSynchronize,
      cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRelease_v2, cuCtxPushCurrent_v2, cuCtxPopCurrent_v2,
      cuModuleLoadData, cuModuleUnload, cuModuleGetFunction, cuLaunchKernel);
}

}  // namespace cuda_double

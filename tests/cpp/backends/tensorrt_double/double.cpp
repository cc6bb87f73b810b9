// The double as a shared library, in place of libcuda, libcudart and libnvinfer.
#include <NvInfer.h>

namespace cuda_double {

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
      cudaGetDeviceCount, cudaGetErrorString, cudaGetLastError, cudaGraphDestroy, cudaGraphExecDestroy,
      cudaGraphInstantiateWithFlags, cudaGraphLaunch, cudaHostAlloc, cudaHostGetDevicePointer, cudaMalloc,
      cudaMallocFromPoolAsync, cudaMemGetInfo, cudaMemPoolCreate, cudaMemPoolDestroy, cudaMemPoolSetAttribute, cudaMemPoolTrimTo,
      cudaMemcpy2DAsync, cudaMemcpyAsync, cudaMemset2DAsync, cudaMemsetAsync, cudaStreamBeginCapture, cudaStreamCreateWithFlags,
      cudaStreamDestroy, cudaStreamEndCapture, cudaStreamSynchronize, cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain,
      cuDevicePrimaryCtxRelease_v2, cuCtxPushCurrent_v2, cuCtxPopCurrent_v2);
}

}  // namespace cuda_double

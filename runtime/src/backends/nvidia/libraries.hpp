// CUDA's runtime and driver and TensorRT's runtime, opened with dlopen at the first call and never unloaded, which GPU drivers
// support badly. A build with TensorRT starts on machines without a GPU.
#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

struct CUctx_st;

namespace rexit::core {

struct TensorRtLibrary {
  std::int32_t version;                                 // 100300
  void* (*create_runtime)(void* logger, std::int32_t);  // createInferRuntime_INTERNAL
};

// The library that REXIT_TENSORRT_LIBRARY names, else libnvinfer of this build's major version. Throws REXIT_BACKEND_MISSING if
// it is missing or older than this build's headers.
const TensorRtLibrary& tensorrt_library();

// "10.3.0" for 100300, as TensorRT 10 and later number their versions.
std::string tensorrt_version_text(std::int32_t number);

namespace cuda {

// The functions of libcudart that rexit calls.
#define REXIT_CUDA_FUNCTIONS(X) \
  X(cudaDeviceGetAttribute)     \
  X(cudaFree)                   \
  X(cudaFreeAsync)              \
  X(cudaFreeHost)               \
  X(cudaGetDeviceCount)         \
  X(cudaGetErrorString)         \
  X(cudaGetLastError)           \
  X(cudaHostAlloc)              \
  X(cudaHostGetDevicePointer)   \
  X(cudaMalloc)                 \
  X(cudaMallocFromPoolAsync)    \
  X(cudaMemPoolCreate)          \
  X(cudaMemPoolDestroy)         \
  X(cudaMemPoolSetAttribute)    \
  X(cudaMemPoolTrimTo)          \
  X(cudaMemcpy2DAsync)          \
  X(cudaMemcpyAsync)            \
  X(cudaMemsetAsync)            \
  X(cudaStreamCreateWithFlags)  \
  X(cudaStreamDestroy)          \
  X(cudaStreamSynchronize)

// And those of libcuda, with their parameters: cuda.h is not needed. They return an int.
#define REXIT_DRIVER_FUNCTIONS(X)              \
  X(cuInit, unsigned)                          \
  X(cuDeviceGet, int*, int)                    \
  X(cuDevicePrimaryCtxRetain, CUctx_st**, int) \
  X(cuDevicePrimaryCtxRelease_v2, int)         \
  X(cuCtxPushCurrent_v2, CUctx_st*)            \
  X(cuCtxPopCurrent_v2, CUctx_st**)

#define REXIT_DECLARE(name) decltype(&::name) name;
#define REXIT_DECLARE_DRIVER(name, ...) int (*name)(__VA_ARGS__);
struct Api {
  REXIT_CUDA_FUNCTIONS(REXIT_DECLARE)
  REXIT_DRIVER_FUNCTIONS(REXIT_DECLARE_DRIVER)
};
#undef REXIT_DECLARE
#undef REXIT_DECLARE_DRIVER

// The libraries that REXIT_CUDA_LIBRARY and REXIT_CUDA_DRIVER_LIBRARY name, else libcudart of this build's major version and the
// driver's libcuda. Throws REXIT_BACKEND_MISSING, also for a library that lacks a function.
const Api& api();

}  // namespace cuda
}  // namespace rexit::core

// CUDA's runtime and driver, opened with dlopen: a build with TensorRT starts on machines without a GPU.
#pragma once

#include <cuda_runtime_api.h>

struct CUctx_st;
struct CUfunc_st;
struct CUmod_st;

namespace rexit::core::cuda {

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

// And those of libcuda, declared here: cuda.h is not needed.
struct Driver {
  int (*cuInit)(unsigned);
  int (*cuDeviceGet)(int*, int);
  int (*cuDevicePrimaryCtxRetain)(CUctx_st**, int);
  int (*cuDevicePrimaryCtxRelease_v2)(int);
  int (*cuCtxPushCurrent_v2)(CUctx_st*);
  int (*cuCtxPopCurrent_v2)(CUctx_st**);
  int (*cuModuleLoadData)(CUmod_st**, const void*);
  int (*cuModuleUnload)(CUmod_st*);
  int (*cuModuleGetFunction)(CUfunc_st**, CUmod_st*, const char*);
  int (*cuLaunchKernel)(CUfunc_st*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cudaStream_t, void**,
                        void**);
};

struct Api {
#define REXIT_DECLARE(name) decltype(&::name) name;
  REXIT_CUDA_FUNCTIONS(REXIT_DECLARE)
#undef REXIT_DECLARE
  Driver driver;
};

// Opens the libraries at the first call: those that REXIT_CUDA_LIBRARY and REXIT_CUDA_DRIVER_LIBRARY name, else libcudart of
// this build's major version and the driver's libcuda. Throws REXIT_BACKEND_MISSING, also for a library that lacks a function.
const Api& api();

}  // namespace rexit::core::cuda

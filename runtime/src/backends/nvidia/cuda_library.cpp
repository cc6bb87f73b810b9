#include "backends/nvidia/cuda_library.hpp"

#include <string>

#include "backends/nvidia/shared_library.hpp"

namespace rexit::core::cuda {
namespace {

Api load() {
  const SharedLibrary driver("the NVIDIA driver", "REXIT_CUDA_DRIVER_LIBRARY", "libcuda.so.1");
  const SharedLibrary runtime("CUDA's runtime", "REXIT_CUDA_LIBRARY", "libcudart.so." + std::to_string(CUDART_VERSION / 1000));
  Api api{};
#define REXIT_LOAD(name) api.name = runtime.get<decltype(&::name)>(#name);
  REXIT_CUDA_FUNCTIONS(REXIT_LOAD)
#undef REXIT_LOAD
  Driver& d = api.driver;
  d.cuInit = driver.get<decltype(d.cuInit)>("cuInit");
  d.cuDeviceGet = driver.get<decltype(d.cuDeviceGet)>("cuDeviceGet");
  d.cuDevicePrimaryCtxRetain = driver.get<decltype(d.cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
  d.cuDevicePrimaryCtxRelease_v2 = driver.get<decltype(d.cuDevicePrimaryCtxRelease_v2)>("cuDevicePrimaryCtxRelease_v2");
  d.cuCtxPushCurrent_v2 = driver.get<decltype(d.cuCtxPushCurrent_v2)>("cuCtxPushCurrent_v2");
  d.cuCtxPopCurrent_v2 = driver.get<decltype(d.cuCtxPopCurrent_v2)>("cuCtxPopCurrent_v2");
  d.cuModuleLoadData = driver.get<decltype(d.cuModuleLoadData)>("cuModuleLoadData");
  d.cuModuleUnload = driver.get<decltype(d.cuModuleUnload)>("cuModuleUnload");
  d.cuModuleGetFunction = driver.get<decltype(d.cuModuleGetFunction)>("cuModuleGetFunction");
  d.cuLaunchKernel = driver.get<decltype(d.cuLaunchKernel)>("cuLaunchKernel");
  return api;
}

}  // namespace

const Api& api() {
  static const Api& loaded = *new Api(load());  // never destroyed: sessions may end after static destructors
  return loaded;
}

}  // namespace rexit::core::cuda

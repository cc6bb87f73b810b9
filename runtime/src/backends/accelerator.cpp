#include "backends/accelerator.hpp"

#include <string>

#include "backends/shared_library.hpp"
#include "base/status.hpp"

namespace rexit::core {

std::string tensorrt_version_text(std::int32_t number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

Accelerator probe_accelerator(std::int32_t device_id) {
  constexpr int capability_major = 75, capability_minor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
  const SharedLibrary driver("the NVIDIA driver", "REXIT_CUDA_DRIVER_LIBRARY", "libcuda.so.1");
  int count = 0, device = 0, major = 0, minor = 0;
  if (driver.get<int (*)(unsigned)>("cuInit")(0) != 0 || driver.get<int (*)(int*)>("cuDeviceGetCount")(&count) != 0 || count == 0)
    fail(REXIT_BACKEND_MISSING, "device `tensorrt`: the NVIDIA driver finds no GPU");
  if (device_id >= count) fail(REXIT_INVALID_ARGUMENT, "device_id is ", device_id, ", this machine has GPUs 0 to ", count - 1);
  const auto attribute = driver.get<int (*)(int*, int, int)>("cuDeviceGetAttribute");
  if (driver.get<int (*)(int*, int)>("cuDeviceGet")(&device, device_id) != 0 ||
      attribute(&major, capability_major, device) != 0 || attribute(&minor, capability_minor, device) != 0)
    fail(REXIT_BACKEND_FAILED, "device `tensorrt`: the NVIDIA driver does not report GPU ", device_id, "'s compute capability");
  const SharedLibrary tensorrt("TensorRT", "REXIT_TENSORRT_LIBRARY", "libnvinfer.so.10");
  const std::int32_t version = tensorrt.get<std::int32_t (*)()>("getInferLibVersion")();
  return {std::to_string(major) + "." + std::to_string(minor), tensorrt_version_text(version)};
}

}  // namespace rexit::core

// The double as a shared library, in place of libcuda, libcudart and libnvinfer.
#include <NvInfer.h>

#include "backends/nvidia/libraries.hpp"

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
#define REXIT_USE(name, ...) reinterpret_cast<void*>(&::name),
void* functions[] = {reinterpret_cast<void*>(&getInferLibVersion), reinterpret_cast<void*>(&createInferRuntime_INTERNAL),
                     REXIT_CUDA_FUNCTIONS(REXIT_USE) REXIT_DRIVER_FUNCTIONS(REXIT_USE)};

}  // namespace cuda_double

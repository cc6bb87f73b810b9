#include "backends/nvidia/libraries.hpp"

#include <cstdlib>

#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

class SharedLibrary {
 public:
  // Opens the path in the environment variable `variable` if that is set, else `name`. `title`: for messages.
  SharedLibrary(const char* title, const char* variable, const std::string& name) : title_(title), name_(name) {
    const char* path = std::getenv(variable);
    const bool has_path = path != nullptr && *path != '\0';
    if (has_path) name_ = path;
    std::string reason;
    handle_ = platform::load_library(name_.c_str(), reason);
    if (handle_ != nullptr) return;
    fail(REXIT_BACKEND_MISSING, "device `tensorrt`: ", title_, " cannot be loaded: ", reason,
         has_path ? "" : std::string("; set ") + variable + " to the path of " + name_);
  }

  template <class Function>
  void get(const char* symbol, Function& function) const {
    void* address = platform::symbol(handle_, symbol);
    if (address == nullptr)
      fail(REXIT_BACKEND_MISSING, "device `tensorrt`: ", name_, " has no ", symbol, ": it is no ", title_, " or too old");
    function = reinterpret_cast<Function>(address);
  }

 private:
  std::string title_, name_;
  void* handle_;
};

TensorRtLibrary load_tensorrt() {
  const SharedLibrary library("TensorRT", "REXIT_TENSORRT_LIBRARY", "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR));
  std::int32_t (*get_version)() = nullptr;
  library.get("getInferLibVersion", get_version);
  const std::int32_t version = get_version(), headers = NV_TENSORRT_VERSION;
  if (version / 10000 != headers / 10000 || version < headers)
    fail(REXIT_BACKEND_MISSING, "device `tensorrt`: the library is TensorRT ", tensorrt_version_text(version),
         ", this rexit was built for ", tensorrt_version_text(headers), " or a later ", NV_TENSORRT_MAJOR, ".x");
  TensorRtLibrary loaded{version, nullptr};
  library.get("createInferRuntime_INTERNAL", loaded.create_runtime);
  return loaded;
}

cuda::Api load_cuda() {
  const SharedLibrary driver("the NVIDIA driver", "REXIT_CUDA_DRIVER_LIBRARY", "libcuda.so.1");
  const SharedLibrary runtime("CUDA's runtime", "REXIT_CUDA_LIBRARY", "libcudart.so." + std::to_string(CUDART_VERSION / 1000));
  cuda::Api api{};
#define REXIT_LOAD(name) runtime.get(#name, api.name);
#define REXIT_LOAD_DRIVER(name, ...) driver.get(#name, api.name);
  REXIT_CUDA_FUNCTIONS(REXIT_LOAD)
  REXIT_DRIVER_FUNCTIONS(REXIT_LOAD_DRIVER)
#undef REXIT_LOAD
#undef REXIT_LOAD_DRIVER
  return api;
}

}  // namespace

std::string tensorrt_version_text(std::int32_t number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

// Never destroyed: sessions may end after static destructors.
const TensorRtLibrary& tensorrt_library() {
  static const TensorRtLibrary& loaded = *new TensorRtLibrary(load_tensorrt());
  return loaded;
}

const cuda::Api& cuda::api() {
  static const Api& loaded = *new Api(load_cuda());
  return loaded;
}

}  // namespace rexit::core

#include "backends/nvidia/tensorrt_library.hpp"

#include "backends/nvidia/shared_library.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

TensorRtLibrary load() {
  const SharedLibrary library("TensorRT", "REXIT_TENSORRT_LIBRARY", "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR));
  const std::int32_t version = library.get<std::int32_t (*)()>("getInferLibVersion")(), headers = NV_TENSORRT_VERSION;
  if (version / 10000 != headers / 10000 || version < headers)
    fail(REXIT_BACKEND_MISSING, "device `tensorrt`: the library is TensorRT ", tensorrt_version_text(version),
         ", this rexit was built for ", tensorrt_version_text(headers), " or a later ", NV_TENSORRT_MAJOR, ".x");
  return {version, library.get<decltype(TensorRtLibrary::create_runtime)>("createInferRuntime_INTERNAL")};
}

}  // namespace

std::string tensorrt_version_text(std::int32_t number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

const TensorRtLibrary& tensorrt_library() {
  static const TensorRtLibrary& loaded = *new TensorRtLibrary(load());
  return loaded;
}

}  // namespace rexit::core

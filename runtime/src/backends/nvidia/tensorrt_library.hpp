// TensorRT's runtime library, opened with dlopen.
#pragma once

#include <NvInfer.h>

#include <cstdint>
#include <string>

namespace rexit::core {

struct TensorRtLibrary {
  std::int32_t version;                                 // 100300
  void* (*create_runtime)(void* logger, std::int32_t);  // createInferRuntime_INTERNAL
  nvinfer1::IRuntime* make_runtime(nvinfer1::ILogger& logger) const {
    return static_cast<nvinfer1::IRuntime*>(create_runtime(&logger, NV_TENSORRT_VERSION));
  }
};

// Opens the library at the first call: the one that REXIT_TENSORRT_LIBRARY names, else libnvinfer of this build's major version.
// Throws REXIT_BACKEND_MISSING if it is missing or older than this build's headers.
const TensorRtLibrary& tensorrt_library();

// "10.3.0" for 100300, as TensorRT 10 and later number their versions.
std::string tensorrt_version_text(std::int32_t number);

}  // namespace rexit::core

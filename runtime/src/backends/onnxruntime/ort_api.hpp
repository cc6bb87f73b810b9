// ONNX Runtime's C++ headers, in our own namespace. Otherwise a program that links librexit.a and uses these headers would share
// `Ort::Global` with us, and loading the library would replace the program's function table.
#pragma once

#include <cstdint>

#define ORT_API_MANUAL_INIT
#define Ort rexit_ort
#include <onnxruntime_cxx_api.h>
#undef Ort
#undef ORT_API_MANUAL_INIT

namespace rexit::core {

namespace Ort = ::rexit_ort;

// The oldest version of the C API with all functions that we call; KernelContext_ParallelFor is the newest of them. A newer
// version would refuse older libraries without need.
constexpr std::uint32_t ort_api_version = 17;

}  // namespace rexit::core

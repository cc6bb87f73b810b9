// ONNX Runtime's C++ headers, in a namespace of our own. A program that is linked with librexit.a and uses these headers too
// would otherwise share `Ort::Global` with us, and loading the library would replace the program's table of functions.
#pragma once

#include <cstdint>

#define ORT_API_MANUAL_INIT
#define Ort rexit_ort
#include <onnxruntime_cxx_api.h>
#undef Ort
#undef ORT_API_MANUAL_INIT

namespace rexit::core {

namespace Ort = ::rexit_ort;

// The oldest version of the C API that has all we call: KernelContext_ParallelFor came last. A newer one would refuse older
// libraries for nothing.
constexpr std::uint32_t ort_api_version = 17;

}  // namespace rexit::core

// This machine's GPU and its version of TensorRT.
#pragma once

#include <cstdint>

#include "bundle/engines.hpp"

namespace rexit::core {

// Asks the NVIDIA driver and TensorRT's library, both opened with dlopen: for builds that do not link them. Throws
// REXIT_BACKEND_MISSING if either is missing, REXIT_INVALID_ARGUMENT if there is no GPU of this number.
Accelerator probe_accelerator(std::int32_t device_id);

// "10.3.0" for 100300, as TensorRT 10 and later number their versions.
std::string tensorrt_version_text(std::int32_t number);

}  // namespace rexit::core

// The GPU and the TensorRT of this machine.
#pragma once

#include <cstdint>

#include "bundle/engines.hpp"

namespace rexit::core {

// As the NVIDIA driver and TensorRT's library say, both opened with dlopen: for builds that do not link them. Throws
// REXIT_BACKEND_MISSING when one of them is not there, REXIT_INVALID_ARGUMENT for a device number too large.
Accelerator probe_accelerator(std::int32_t device_id);

// "10.3.0" from what TensorRT 10 and later call 100300.
std::string tensorrt_version_text(std::int32_t number);

}  // namespace rexit::core

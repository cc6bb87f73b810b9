// ONNX Runtime's execution providers: whether the library has one, and how to make a session use it.
#pragma once

#include <cstdint>

#include "backends/onnxruntime/backend_ort.hpp"
#include "backends/onnxruntime/ort_library.hpp"

namespace rexit::core {

// Throws REXIT_BACKEND_MISSING, and says which library has the provider. The API must be loaded.
void check_provider(Provider provider);

void append_provider(Ort::SessionOptions& options, Provider provider, std::int32_t device_id);

}  // namespace rexit::core

// ONNX Runtime's execution providers.
#pragma once

#include <cstdint>

#include "backends/onnxruntime/backend_ort.hpp"
#include "backends/onnxruntime/ort_library.hpp"

namespace rexit::core {

// Throws REXIT_BACKEND_MISSING if the loaded library lacks the provider. The message says which library has it.
void check_provider(Provider provider);

void append_provider(Ort::SessionOptions& options, Provider provider, std::int32_t device_id);

// Appends the provider `execution.provider` with its options. Throws REXIT_BACKEND_MISSING if the library lacks it or refuses
// the options.
void append_named_provider(Ort::SessionOptions& options, const Execution& execution);

}  // namespace rexit::core

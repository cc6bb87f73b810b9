// Backend over ONNX Runtime, on one of its execution providers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace rexit::core {

enum class Provider { cpu, cuda, tensorrt };

// Throws REXIT_BACKEND_MISSING when the library is not there or was built without the provider.
void require_provider(const Execution& execution, Provider provider);

// Throws REXIT_BACKEND_MISSING when the library is not there or is too old for the variant's own graphs.
void require_opset(const Execution& execution, const Variant& variant);

// `graphs`: the paths of the graphs to run, one per segment: the variant's own or, for TensorRT, those that wrap its plans.
// Hidden states, keys and values are kept in the host's memory on every provider: ONNX Runtime 1.21's C API has no copy between
// devices, and compaction needs one. Several threads may call it at once. `bundle` must outlive the backend.
std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider,
                                          const std::vector<std::string>& graphs);

}  // namespace rexit::core

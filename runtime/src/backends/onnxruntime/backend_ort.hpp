// The backend over ONNX Runtime and an execution provider.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace rexit::core {

enum class Provider { cpu, cuda, tensorrt };

// Throws REXIT_BACKEND_MISSING if the library is missing or has no such provider.
void require_provider(const Execution& execution, Provider provider);

// Throws REXIT_BACKEND_MISSING if the library is missing or too old for the variant's graphs.
void require_opset(const Execution& execution, const Variant& variant);

// Adds the thread pool's size and the library's version. Only after make_ort_backend().
void add_ort_conditions(Conditions& here, const Execution& execution);

// `graphs`: paths in the bundle, by segment: the variant's graphs or, for TensorRT, the graphs around its plans. Hidden states,
// keys and values are in host memory with every provider: compaction would have to copy between devices, which the C API of ONNX
// Runtime 1.21 cannot. Several threads may call the backend at once. It keeps no reference to `bundle`.
std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider,
                                          const std::vector<std::string>& graphs);

}  // namespace rexit::core

// The backend over ONNX Runtime, on one of its execution providers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace rexit::core {

enum class Provider { cpu, cuda, tensorrt };

// Throws REXIT_BACKEND_MISSING if the library is missing or was built without the provider.
void require_provider(const Execution& execution, Provider provider);

// Throws REXIT_BACKEND_MISSING if the library is missing or too old for the variant's own graphs.
void require_opset(const Execution& execution, const Variant& variant);

// Once a backend has been made: the thread pool's size and the library's version.
void add_ort_conditions(Conditions& here);

// `graphs`: the paths of the graphs to run, one per segment: the variant's own or, for TensorRT, those that wrap its plans.
// Hidden states, keys and values are in host memory with every provider: the C API of ONNX Runtime 1.21 cannot copy between
// devices, which compaction would need. Several threads may call the backend at once. It does not need `bundle` any longer.
std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider,
                                          const std::vector<std::string>& graphs);

}  // namespace rexit::core

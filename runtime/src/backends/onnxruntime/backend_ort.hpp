// The backend over ONNX Runtime and an execution provider.
#pragma once

#include <memory>

#include "backends/backend.hpp"

namespace rexit::core {

enum class Provider { cpu, cuda };

// Adds the thread pool's size and the library's version. Only after make_ort_backend().
void add_ort_conditions(Conditions& here, const Execution& execution);

// Loads the variant's graphs. Hidden states, keys and values are in host memory with every provider: compaction would have to
// copy between devices, which the C API of ONNX Runtime 1.21 cannot. Several threads may call the backend at once. It keeps no
// reference to `bundle`. Throws REXIT_BACKEND_MISSING if the library is missing, too old for the graphs or has no such provider.
std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider);

}  // namespace rexit::core

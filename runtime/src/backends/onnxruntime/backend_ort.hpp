// The backend over ONNX Runtime and an execution provider.
#pragma once

#include <memory>

#include "backends/backend.hpp"

namespace rexit::core {

enum class Provider { cpu, cuda };

// Adds the thread pool's size and the library's version. Only after make_ort_backend().
void add_ort_conditions(Conditions& here);

// Loads the variant's graphs. Hidden states, keys and values are in host memory with every provider: compaction would have to
// copy between devices, which the C API of ONNX Runtime 1.21 cannot. Several threads may call the backend at once. It keeps no
// reference to `bundle`. Throws REXIT_BACKEND_MISSING if the library is missing, too old for the graphs or has no such provider.
std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider);

// See load_zero_graph(). Throws REXIT_CORRUPT unless the graph has one input, float32 [N, numbers], and its first output is
// float32 [N] or [N, 1]; REXIT_BACKEND_FAILED if ONNX Runtime refuses it.
std::shared_ptr<const ZeroGraph> make_ort_zero_graph(const Bundle& bundle, const Execution& execution);

}  // namespace rexit::core

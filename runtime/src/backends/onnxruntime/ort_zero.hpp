// Exit zero's graph, over ONNX Runtime.
#pragma once

#include <memory>

#include "backends/backend.hpp"

namespace rexit::core {

// See load_zero_graph(). Throws REXIT_CORRUPT unless the graph has one input, float32 [N, numbers], and its first output is
// float32 [N] or [N, 1]; REXIT_BACKEND_FAILED if ONNX Runtime refuses it.
std::shared_ptr<const ZeroGraph> make_ort_zero_graph(const Bundle& bundle, const Execution& execution);

}  // namespace rexit::core

// Loads a segment's graph into ONNX Runtime.
#pragma once

#include "backends/onnxruntime/ort_library.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

// From the graph's path, with weights beside it; or from memory, if the bundle is not in a folder. Throws Ort::Exception, or
// REXIT_BACKEND_MISSING if it must be loaded from memory and the library cannot. The session keeps no reference to the bundle.
Ort::Session load_graph(const Bundle& bundle, const Segment& segment, const Ort::SessionOptions& options,
                        const Execution& execution);

}  // namespace rexit::core

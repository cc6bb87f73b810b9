// A segment's graph against the manifest and the format.
#pragma once

#include <string>
#include <vector>

#include "backends/onnxruntime/ort_api.hpp"
#include "backends/segment_tensors.hpp"

namespace rexit::core {

ONNXTensorElementDataType ort_type(TensorType type);

// Throws REXIT_CORRUPT unless the graph has these inputs and outputs, with their types and shapes, and no other inputs.
// `path`: the graph's, for messages.
void check_signature(const Ort::Session& graph, const std::string& path, const std::vector<TensorSpec>& inputs,
                     const std::vector<TensorSpec>& outputs);

}  // namespace rexit::core

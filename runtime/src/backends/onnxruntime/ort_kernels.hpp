// rexit's kernels as ONNX Runtime operators of domain `rexit`.
#pragma once

#include "backends/onnxruntime/ort_api.hpp"

namespace rexit::core {

// The exporter writes these operators as functions of standard operators, which any ONNX Runtime inlines and runs. Sessions with
// these options run the kernels instead. For the CPU only.
void add_kernels(Ort::SessionOptions& options);

}  // namespace rexit::core

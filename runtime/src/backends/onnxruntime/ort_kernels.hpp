// rexit's kernels as operators of ONNX Runtime, domain `rexit`.
#pragma once

#include "backends/onnxruntime/ort_library.hpp"

namespace rexit::core {

// The exporter writes these operators as functions of standard ones, which any ONNX Runtime takes apart and runs. Sessions made
// with these options run the kernels instead. On the CPU.
void add_kernels(Ort::SessionOptions& options);

}  // namespace rexit::core

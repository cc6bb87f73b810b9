// rexit's kernels as ONNX Runtime operators of domain `rexit`.
#pragma once

#include <string>

#include "backends/onnxruntime/ort_api.hpp"

namespace rexit::core {

// The exporter writes these operators as functions of standard operators, which any ONNX Runtime inlines and runs. Sessions with
// these options run the kernels instead. For the CPU only.
void add_kernels(Ort::SessionOptions& options);

// Whether the kernels read weights of this precision where the file is mapped. Otherwise ONNX Runtime rearranges them, and a
// second session of a graph takes their memory again.
bool reads_weights_from_file(const std::string& precision);

}  // namespace rexit::core

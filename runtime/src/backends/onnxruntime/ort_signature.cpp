#include "backends/onnxruntime/ort_signature.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "base/status.hpp"

namespace rexit::core {
namespace {

const char* type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return "int8";
    default:
      return "another type";
  }
}

// Checks names, dtypes and shapes of a session's inputs or outputs.
void check_side(const Ort::Session& graph, bool inputs, const std::vector<TensorSpec>& specs, const std::string& path) {
  const char* const side = inputs ? "input" : "output";
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;
  const std::size_t count = inputs ? graph.GetInputCount() : graph.GetOutputCount();
  for (std::size_t i = 0; i < count; ++i)
    names.emplace_back(inputs ? graph.GetInputNameAllocated(i, allocator).get()
                              : graph.GetOutputNameAllocated(i, allocator).get());
  std::set<std::string> checked_names;
  for (const TensorSpec& expected : specs) {
    const auto name = std::find(names.begin(), names.end(), expected.name);
    if (name == names.end()) fail(REXIT_CORRUPT, path, ": the graph has no ", side, " `", expected.name, "`");
    const std::string where = path + ": " + side + " `" + expected.name + "`";
    if (!checked_names.insert(expected.name).second) fail(REXIT_CORRUPT, where, " appears twice in the manifest");
    const auto index = static_cast<std::size_t>(name - names.begin());
    const Ort::TypeInfo info = inputs ? graph.GetInputTypeInfo(index) : graph.GetOutputTypeInfo(index);  // owns `tensor`
    if (info.GetONNXType() != ONNX_TYPE_TENSOR) fail(REXIT_CORRUPT, where, " is not a tensor");
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    if (tensor.GetElementType() != ort_type(expected.type))
      fail(REXIT_CORRUPT, where, " is ", type_name(tensor.GetElementType()), ", expected ", name_of(expected.type));
    const std::vector<std::int64_t> shape = tensor.GetShape();
    if (shape.size() != expected.shape.size())
      fail(REXIT_CORRUPT, where, " has rank ", shape.size(), ", expected ", expected.shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i)
      if (shape[i] >= 0 && shape[i] != expected.shape[i])
        fail(REXIT_CORRUPT, where, " has size ", shape[i], " in dimension ", i, ", expected ",
             expected.shape[i] == any_size ? std::string("a dynamic size") : std::to_string(expected.shape[i]));
  }
  // ONNX Runtime refuses runs without all inputs.
  for (const std::string& name : names)
    if (inputs && checked_names.count(name) == 0)
      fail(REXIT_CORRUPT, path, ": the graph's input `", name, "` is not in the manifest");
}

}  // namespace

ONNXTensorElementDataType ort_type(TensorType type) {
  return type == TensorType::int64     ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
         : type == TensorType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : type == TensorType::float16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}

void check_signature(const Ort::Session& graph, const std::string& path, const std::vector<TensorSpec>& inputs,
                     const std::vector<TensorSpec>& outputs) {
  check_side(graph, true, inputs, path);
  check_side(graph, false, outputs, path);
}

}  // namespace rexit::core

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
class Signature {
 public:
  Signature(const Ort::Session& session, bool inputs, std::string where)
      : session_(session), inputs_(inputs), where_(std::move(where)) {
    Ort::AllocatorWithDefaultOptions allocator;
    const std::size_t count = inputs ? session.GetInputCount() : session.GetOutputCount();
    for (std::size_t i = 0; i < count; ++i)
      names_.emplace_back(inputs ? session.GetInputNameAllocated(i, allocator).get()
                                 : session.GetOutputNameAllocated(i, allocator).get());
  }

  void check(const TensorSpec& expected) {
    const auto name = std::find(names_.begin(), names_.end(), expected.name);
    if (name == names_.end()) fail(REXIT_CORRUPT, where_, ": the graph has no ", side(), " `", expected.name, "`");
    if (!checked_names_.insert(expected.name).second)
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` appears twice in the manifest");
    const auto index = static_cast<std::size_t>(name - names_.begin());
    // `info` owns the data of `tensor`.
    const Ort::TypeInfo info = inputs_ ? session_.GetInputTypeInfo(index) : session_.GetOutputTypeInfo(index);
    if (info.GetONNXType() != ONNX_TYPE_TENSOR)
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` is not a tensor");
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    if (tensor.GetElementType() != ort_type(expected.type))
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` is ", type_name(tensor.GetElementType()), ", expected ",
           name_of(expected.type));
    const std::vector<std::int64_t> shape = tensor.GetShape();
    if (shape.size() != expected.shape.size())
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` has rank ", shape.size(), ", expected ",
           expected.shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i)
      if (expected.shape[i] == any_size ? shape[i] >= 0 : shape[i] >= 0 && shape[i] != expected.shape[i])
        fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` has size ", shape[i], " in dimension ", i,
             ", expected ", expected.shape[i] == any_size ? std::string("a dynamic size") : std::to_string(expected.shape[i]));
  }

  // For inputs: ONNX Runtime refuses runs without all of them.
  void check_no_unchecked() const {
    for (const std::string& name : names_)
      if (checked_names_.count(name) == 0)
        fail(REXIT_CORRUPT, where_, ": the graph's ", side(), " `", name, "` is not in the manifest");
  }

 private:
  const char* side() const { return inputs_ ? "input" : "output"; }

  const Ort::Session& session_;
  bool inputs_;
  std::string where_;
  std::vector<std::string> names_;
  std::set<std::string> checked_names_;
};

}  // namespace

ONNXTensorElementDataType ort_type(TensorType type) {
  return type == TensorType::int64     ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
         : type == TensorType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : type == TensorType::float16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}

void check_signature(const Ort::Session& graph, const std::string& path, const std::vector<TensorSpec>& inputs,
                     const std::vector<TensorSpec>& outputs) {
  Signature graph_inputs(graph, true, path), graph_outputs(graph, false, path);
  for (const TensorSpec& spec : inputs) graph_inputs.check(spec);
  graph_inputs.check_no_unchecked();
  for (const TensorSpec& spec : outputs) graph_outputs.check(spec);
}

}  // namespace rexit::core

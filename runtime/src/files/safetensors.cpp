#include "files/safetensors.hpp"

#include <limits>
#include <sstream>
#include <utility>

#include "base/checked.hpp"
#include "base/status.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

std::size_t dtype_bytes(const std::string& dtype) {
  if (dtype == "I64" || dtype == "U64" || dtype == "F64") return 8;
  if (dtype == "I32" || dtype == "U32" || dtype == "F32") return 4;
  if (dtype == "I16" || dtype == "U16" || dtype == "F16" || dtype == "BF16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  return 0;
}

template <class Shape>
std::string shape_text(const Shape& shape) {
  std::ostringstream text;
  text << '[';
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text << ", ";
    if constexpr (std::is_same_v<typename Shape::value_type, std::size_t>) {
      text << shape[i];
    } else if (shape[i]) {
      text << *shape[i];
    } else {
      text << "any";
    }
  }
  text << ']';
  return text.str();
}

}  // namespace

Safetensors::Safetensors(File file) : file_(std::move(file)) {
  const std::string& path = file_.path();
  if (file_.size() < 8) fail(REXIT_CORRUPT, path, ": ", file_.size(), " bytes, too short for a safetensors file");
  std::uint64_t header = 0;  // its length
  for (int i = 7; i >= 0; --i) header = header << 8 | file_.data()[i];
  if (header > max_json_bytes || header > file_.size() - 8)
    fail(REXIT_CORRUPT, path, ": the header should have ", header, " bytes, the file has ", file_.size());
  const std::size_t start = 8 + static_cast<std::size_t>(header), available = file_.size() - start;

  const JsonDocument document(file_.data() + 8, static_cast<std::size_t>(header), path);
  for (const auto& [name, entry] : document.root().members()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.members()) metadata_.emplace(key, value.string());
      continue;
    }
    Tensor tensor;
    tensor.dtype = entry.at("dtype").string();
    const std::size_t width = dtype_bytes(tensor.dtype);
    if (width == 0) fail(REXIT_CORRUPT, entry.where(), ": dtype `", tensor.dtype, "`, which rexit does not write");
    std::size_t bytes = width;
    for (const Json& dimension : entry.at("shape").elements()) {
      const std::size_t n = dimension.size(0, std::numeric_limits<std::int64_t>::max());
      const std::optional<std::size_t> product = checked_multiply({bytes, n});
      if (!product) fail(REXIT_CORRUPT, dimension.where(), ": overflows");
      bytes = *product;
      tensor.shape.push_back(n);
    }
    const std::vector<Json> offsets = entry.at("data_offsets").elements();
    if (offsets.size() != 2) fail(REXIT_CORRUPT, entry.where(), ": `data_offsets` has ", offsets.size(), " numbers, expected 2");
    const std::size_t begin = offsets[0].size(0, available), end = offsets[1].size(0, available);
    if (begin > end || end - begin != bytes)
      fail(REXIT_CORRUPT, entry.where(), ": takes bytes ", begin, " to ", end, ", its dtype and shape need ", bytes, " bytes");
    tensor.begin = start + begin;
    tensor.bytes = bytes;
    tensors_.emplace(name, std::move(tensor));
  }
}

std::vector<std::string> Safetensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

const Safetensors::Tensor& Safetensors::find(const std::string& name, const char* dtype,
                                             const std::vector<std::optional<std::size_t>>& shape) const {
  const auto entry = tensors_.find(name);
  if (entry == tensors_.end()) fail(REXIT_CORRUPT, path(), ": tensor `", name, "` is missing");
  const Tensor& tensor = entry->second;
  if (tensor.dtype != dtype) fail(REXIT_CORRUPT, path(), ": `", name, "` is ", tensor.dtype, ", expected ", dtype);
  bool matches = tensor.shape.size() == shape.size();
  for (std::size_t i = 0; matches && i < shape.size(); ++i) matches = !shape[i] || *shape[i] == tensor.shape[i];
  if (!matches)
    fail(REXIT_CORRUPT, path(), ": `", name, "` has shape ", shape_text(tensor.shape), ", expected ", shape_text(shape));
  return tensor;
}

void Safetensors::fail_misaligned(const std::string& name) const {
  fail(REXIT_CORRUPT, path(), ": `", name, "` is not aligned to its dtype");
}

}  // namespace rexit::core

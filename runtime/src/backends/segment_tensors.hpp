// The inputs and outputs of a segment's graph or engine: names from the manifest, types and shapes from the format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace rexit::core {

enum class TensorType { int64, float32, float16, int8 };

constexpr std::int64_t any_size = -1;  // a dynamic dimension

// The quantity in a tensor's dynamic dimension: T, P, N or R.
enum class Dynamic { tokens, prefix, rows, vectors };

struct TensorSpec {
  std::string name;
  TensorType type;
  std::vector<std::int64_t> shape;
  Dynamic dynamic;
};

constexpr const char* name_of(TensorType type) noexcept {
  return type == TensorType::int64     ? "int64"
         : type == TensorType::float32 ? "float32"
         : type == TensorType::float16 ? "float16"
                                       : "int8";
}
constexpr std::size_t bytes_of(TensorType type) noexcept {
  return type == TensorType::int64 ? 8 : type == TensorType::float32 ? 4 : type == TensorType::float16 ? 2 : 1;
}
constexpr TensorType type_of(Element element) noexcept {
  return element == Element::float32 ? TensorType::float32 : element == Element::float16 ? TensorType::float16 : TensorType::int8;
}

// In this order: tokens or hidden, positions, groups, rows, vectors (if the segment has them), past keys, past values.
std::vector<TensorSpec> segment_inputs(const Model& model, const Segment& segment);
// In this order: hidden (not in the last segment), logits, new keys, new values.
std::vector<TensorSpec> segment_outputs(const Model& model, const Segment& segment);

}  // namespace rexit::core

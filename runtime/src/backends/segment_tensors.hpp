// The inputs and outputs of a segment's graph or engine: names from the manifest, types and shapes from the format.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"

namespace rexit::core {

enum class TensorType { int64, float32, float16 };

constexpr std::int64_t any_size = -1;  // a dynamic dimension

// The quantity in a tensor's dynamic dimension: T, P or N.
enum class Dynamic { tokens, prefix, rows };

struct TensorSpec {
  std::string name;
  TensorType type;
  std::vector<std::int64_t> shape;
  Dynamic dynamic;
};

constexpr const char* name_of(TensorType type) noexcept {
  return type == TensorType::int64 ? "int64" : type == TensorType::float32 ? "float32" : "float16";
}
constexpr std::size_t bytes_of(TensorType type) noexcept {
  return type == TensorType::int64 ? 8 : type == TensorType::float32 ? 4 : 2;
}
constexpr TensorType type_of(Element element) noexcept {
  return element == Element::float32 ? TensorType::float32 : TensorType::float16;
}

// T, P' and N of a pass. P' counts rows of past keys and values: the prefix, or `min_past` rows of padding without one.
struct PassSizes {
  PassSizes(const Pass& pass, std::size_t min_past) noexcept
      : tokens(pass.tokens), prefix(std::max(pass.prefix, min_past)), rows(pass.rows) {}

  std::size_t size(Dynamic dynamic) const noexcept {
    return dynamic == Dynamic::tokens ? tokens : dynamic == Dynamic::prefix ? prefix : rows;
  }

  std::size_t tokens, prefix, rows;
};

// In this order: tokens or hidden, positions, groups, rows, past keys, past values.
std::vector<TensorSpec> segment_inputs(const Model& model, const Segment& segment);
// In this order: hidden (not in the last segment), logits, new keys, new values.
std::vector<TensorSpec> segment_outputs(const Model& model, const Segment& segment);

}  // namespace rexit::core

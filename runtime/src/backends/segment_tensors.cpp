#include "backends/segment_tensors.hpp"

namespace rexit::core {
namespace {

std::vector<std::int64_t> hidden_shape(const Model& model) { return {any_size, static_cast<std::int64_t>(model.hidden_size)}; }

void add_caches(std::vector<TensorSpec>& specs, const Model& model, const Segment& segment, const std::vector<std::string>& keys,
                const std::vector<std::string>& values, Dynamic dynamic) {
  for (const auto* names : {&keys, &values})
    for (const std::string& name : *names)
      specs.push_back({name,
                       type_of(segment.cache_dtype),
                       {static_cast<std::int64_t>(model.kv_heads), any_size, static_cast<std::int64_t>(model.head_dim)},
                       dynamic});
}

}  // namespace

std::vector<TensorSpec> segment_inputs(const Model& model, const Segment& segment) {
  std::vector<TensorSpec> specs;
  if (segment.first) {
    specs.push_back({segment.source, TensorType::int64, {any_size}, Dynamic::tokens});
  } else {
    specs.push_back({segment.source, type_of(segment.hidden_dtype), hidden_shape(model), Dynamic::tokens});
  }
  for (const std::string* name : {&segment.positions, &segment.groups})
    specs.push_back({*name, TensorType::int64, {any_size}, Dynamic::tokens});
  specs.push_back({segment.rows, TensorType::int64, {any_size}, Dynamic::rows});
  add_caches(specs, model, segment, segment.past_keys, segment.past_values, Dynamic::prefix);
  return specs;
}

std::vector<TensorSpec> segment_outputs(const Model& model, const Segment& segment) {
  std::vector<TensorSpec> specs;
  if (!segment.last) specs.push_back({segment.hidden, type_of(segment.hidden_dtype), hidden_shape(model), Dynamic::tokens});
  constexpr std::int64_t logits = 2;
  specs.push_back({segment.logits, TensorType::float32, {any_size, logits}, Dynamic::rows});
  add_caches(specs, model, segment, segment.new_keys, segment.new_values, Dynamic::tokens);
  return specs;
}

}  // namespace rexit::core

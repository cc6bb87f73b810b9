#include "bundle/catalog/vectors.hpp"

#include <algorithm>
#include <utility>

#include "base/status.hpp"
#include "files/half.hpp"

namespace rexit::core {

Vectors::Vectors(File file, const Program& program, std::size_t items, std::size_t width)
    : table_(std::move(file)), program_(program), width_(width) {
  for (const VectorTable& vectors : program.vectors)
    items_.push_back(table_.array<Half>(vectors.name, {items, static_cast<std::size_t>(vectors.count), width}));
  if (!program.has_user_vector) return;
  liked_items_ = table_.array<Half>("user", {items, width});
  no_likes_ = table_.array<Half>("user.none", {width});
}

void Vectors::copy_vector(std::int32_t id, float* to) const {
  // The last table that begins at or before `id`. A table without items begins where the next table does.
  const std::vector<VectorTable>& tables = program_.vectors;
  const auto next = std::upper_bound(tables.begin(), tables.end(), id,
                                     [](std::int32_t key, const VectorTable& table) { return key < table.first; });
  const VectorTable& table = next[-1];
  const std::int32_t offset = id - table.first;
  const Array<Half>& vectors = items_[static_cast<std::size_t>(next - tables.begin()) - 1];
  const Half* vector = vectors.data + static_cast<std::size_t>(offset) * width_;
  if (!all_finite(vector, width_)) fail_not_finite(table.name, offset / table.count);
  std::transform(vector, vector + width_, to, to_float);
}

const Half* Vectors::liked_item(Row item) const {
  const Half* vector = liked_items_.data + static_cast<std::size_t>(item) * width_;
  if (!all_finite(vector, width_)) fail_not_finite("user", item);
  return vector;
}

const Half* Vectors::no_likes() const {
  if (!all_finite(no_likes_.data, width_)) fail(REXIT_CORRUPT, table_.path(), ": `user.none` is not finite");
  return no_likes_.data;
}

void Vectors::fail_not_finite(const std::string& name, Row item) const {
  fail(REXIT_CORRUPT, table_.path(), ": `", name, "` of item row ", item, " is not finite");
}

}  // namespace rexit::core

#include "bundle/vectors.hpp"

#include <algorithm>

#include "base/status.hpp"
#include "files/half.hpp"

namespace rexit::core {

Vectors::Vectors(const std::string& path, const Program& program, std::size_t items, std::size_t width)
    : table_(path), program_(program), width_(width) {
  for (const VectorTable& one : program.vectors)
    items_.push_back(table_.array<Half>(one.name, {items, static_cast<std::size_t>(one.count), width}));
  if (!program.has_user_vector) return;
  liked_ = table_.array<Half>("user", {items, width});
  none_liked_ = table_.array<Half>("user.none", {width});
}

void Vectors::take(std::int32_t id, float* to) const {
  // The last table that begins at `id` or before: one without an item begins where the next one does.
  const std::vector<VectorTable>& all = program_.vectors;
  const auto after = std::upper_bound(all.begin(), all.end(), id,
                                      [](std::int32_t wanted, const VectorTable& one) { return wanted < one.first; });
  const VectorTable& table = after[-1];
  const std::int32_t place = id - table.first;
  const Half* vector = items_[static_cast<std::size_t>(after - all.begin()) - 1].data + static_cast<std::size_t>(place) * width_;
  if (!all_finite(vector, width_)) not_finite(table.name, place / table.count);
  std::transform(vector, vector + width_, to, to_float);
}

const Half* Vectors::liked(Row item) const {
  const Half* vector = liked_.data + static_cast<std::size_t>(item) * width_;
  if (!all_finite(vector, width_)) not_finite("user", item);
  return vector;
}

const Half* Vectors::none_liked() const {
  if (!all_finite(none_liked_.data, width_)) fail(REXIT_CORRUPT, table_.path(), ": `user.none` is not finite");
  return none_liked_.data;
}

void Vectors::not_finite(const std::string& name, Row item) const {
  fail(REXIT_CORRUPT, table_.path(), ": `", name, "` of item row ", item, " is not finite");
}

}  // namespace rexit::core

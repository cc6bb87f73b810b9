// vectors.safetensors: the vectors in prompts, memory-mapped. Opening checks shapes and dtypes. Values are checked when they are
// read: checking them all would read the whole file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/catalog/program.hpp"
#include "bundle/catalog/tables.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

class Vectors {
 public:
  // The tables that `program` names: `width` numbers a vector, `items` items. `program` must outlive the Vectors.
  Vectors(File file, const Program& program, std::size_t items, std::size_t width);

  std::size_t width() const noexcept { return width_; }
  std::size_t bytes() const noexcept { return table_.bytes(); }
  void check_unchanged() const { table_.check_unchanged(); }

  // Copies the vector of an id in [first_vector, user_vector) to `to`, [width]. Throws REXIT_CORRUPT if it is not finite.
  void copy_vector(std::int32_t id, float* to) const;

  // The terms of the user's vector, with a user_vector op: [width] for an item that the user liked, and for a user without likes.
  // Both throw REXIT_CORRUPT for a vector that is not finite.
  const Half* liked_item(Row item) const;
  const Half* no_likes() const;

 private:
  [[noreturn]] void fail_not_finite(const std::string& name, Row item) const;

  Safetensors table_;
  const Program& program_;
  std::size_t width_;
  std::vector<Array<Half>> items_;  // by table: [items, count, width]
  Array<Half> liked_items_, no_likes_;
};

}  // namespace rexit::core

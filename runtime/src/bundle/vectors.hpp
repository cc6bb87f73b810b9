// vectors.safetensors: the vectors that stand in prompts, memory-mapped. Shapes and dtypes are checked when it is opened; values
// when they are taken, since checking them all would read the whole file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/ids.hpp"
#include "bundle/program.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

class Vectors {
 public:
  // Vectors of `width` numbers for `items` items, as `program` names them. `program` must outlive the Vectors.
  Vectors(const std::string& path, const Program& program, std::size_t items, std::size_t width);

  std::size_t width() const noexcept { return width_; }
  std::size_t bytes() const noexcept { return table_.bytes(); }
  void check_unchanged() const { table_.check_unchanged(); }

  // Writes the vector of an id in [first_vector, user_vector) to `to`, [width]. Throws REXIT_CORRUPT if it is not finite.
  void take(std::int32_t id, float* to) const;

  // What the user's vector is made of, with a user_vector op: [width] for an item that was liked, and where none was. Both throw
  // REXIT_CORRUPT if it is not finite.
  const Half* liked(Row item) const;
  const Half* none_liked() const;

 private:
  [[noreturn]] void not_finite(const std::string& name, Row item) const;

  Safetensors table_;
  const Program& program_;
  std::size_t width_;
  std::vector<Array<Half>> items_;  // one per table, [items, count, width] each
  Array<Half> liked_, none_liked_;
};

}  // namespace rexit::core

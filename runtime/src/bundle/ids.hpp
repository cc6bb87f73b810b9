// Ids as they are in the user's data, and the rows they stand for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "files/safetensors.hpp"

namespace rexit::core {

using Row = std::int32_t;

// Rows are indices in ascending order of id, so a look-up is a binary search.
class Ids {
 public:
  // Takes `ids`, or `id_bytes` and `id_offsets`, without reading one. `table` must outlive the Ids.
  Ids(const Safetensors& table, const std::string& kind, std::size_t count);

  // That they ascend; otherwise some are not found. Throws REXIT_CORRUPT, as all below do for an id outside its file.
  void check() const;

  std::size_t size() const noexcept { return count_; }
  bool are_strings() const noexcept { return strings_; }
  std::optional<Row> find(std::int64_t number) const noexcept;
  std::optional<Row> find(std::string_view text) const;
  std::string text(Row row) const;  // for messages
  // The id itself: the one for integers, the other for strings.
  std::int64_t number_at(std::size_t row) const noexcept { return numbers_[row]; }
  std::string_view string_at(std::size_t row) const;

 private:
  const Safetensors& table_;
  bool strings_;
  std::size_t count_;
  Array<std::int64_t> numbers_{}, offsets_{};
  Array<std::uint8_t> bytes_{};
};

}  // namespace rexit::core

// Ids as in the user's data, and their rows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "files/safetensors.hpp"

namespace rexit::core {

using Row = std::int32_t;

// Rows are in ascending order of id, so a look-up is a binary search.
class Ids {
 public:
  // Views of `ids`, or of `id_bytes` and `id_offsets`; reads no id. `table` must outlive the Ids.
  Ids(const Safetensors& table, const std::string& kind, std::size_t count);

  // Throws REXIT_CORRUPT unless ids ascend: a search would miss some. All functions below throw it for an id outside its file.
  void check() const;

  std::size_t size() const noexcept { return count_; }
  bool are_strings() const noexcept { return strings_; }
  std::optional<Row> find(std::int64_t number) const noexcept;
  std::optional<Row> find(std::string_view text) const;
  std::string text(Row row) const;                                                  // for messages
  std::string_view string_at(std::size_t row) const;                                // string ids only
  std::int64_t number_at(std::size_t row) const noexcept { return numbers_[row]; }  // integer ids only

 private:
  const Safetensors& table_;
  bool strings_;
  std::size_t count_;
  Array<std::int64_t> numbers_{}, offsets_{};
  Array<std::uint8_t> bytes_{};
};

}  // namespace rexit::core

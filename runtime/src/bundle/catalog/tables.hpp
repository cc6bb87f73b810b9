// Checks of a single value when it is read (index_at, slice_of), and of whole tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.hpp"
#include "files/half.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

// values[i]. Throws REXIT_CORRUPT unless it is in [0, limit).
template <class T>
std::size_t index_at(const Safetensors& table, const char* name, const Array<T>& values, std::size_t i, std::size_t limit) {
  if (values[i] < 0 || static_cast<std::uint64_t>(values[i]) >= limit)
    fail(REXIT_CORRUPT, table.path(), ": `", name, "`[", i, "] is ", std::int64_t{values[i]}, ", expected 0 to ", limit,
         " exclusive");
  return static_cast<std::size_t>(values[i]);
}

// A slice of a CSR table: positions [begin, end).
struct Span {
  std::size_t begin, end;

  std::size_t size() const noexcept { return end - begin; }
};

// A row's slice. Throws REXIT_CORRUPT unless it is within [0, total].
inline Span slice_of(const Safetensors& table, const char* name, const Array<std::int64_t>& offsets, std::size_t row,
                     std::size_t total) {
  const std::int64_t begin = offsets[row], end = offsets[row + 1];
  if (begin < 0 || end < begin || static_cast<std::uint64_t>(end) > total)
    fail(REXIT_CORRUPT, table.path(), ": `", name, "`[", row, "] and the next are ", begin, " and ", end,
         ", expected ascending numbers from 0 to ", total);
  return {static_cast<std::size_t>(begin), static_cast<std::size_t>(end)};
}

// CSR offsets: from 0 to `total`, non-decreasing.
inline void check_offsets(const Safetensors& table, const char* name, const Array<std::int64_t>& offsets, std::size_t total) {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < offsets.size; ++i) {
    if (i == 0 ? offsets[i] != 0 : offsets[i] < last)
      fail(REXIT_CORRUPT, table.path(), ": `", name, "`[", i, "] is ", offsets[i], ", expected ", i == 0 ? "" : "at least ",
           last);
    last = offsets[i];
  }
  if (static_cast<std::uint64_t>(last) != total)
    fail(REXIT_CORRUPT, table.path(), ": `", name, "` ends at ", last, ", expected ", total);
}

// Every value in [0, limit).
template <class T>
void check_below(const Safetensors& table, const char* name, const Array<T>& values, std::size_t limit) {
  for (std::size_t i = 0; i < values.size; ++i) index_at(table, name, values, i, limit);
}

inline void check_finite(const Safetensors& table, const char* name, const Array<Half>& values) {
  for (std::size_t i = 0; i < values.size; ++i)
    if (!is_finite(values[i])) fail(REXIT_CORRUPT, table.path(), ": `", name, "`[", i, "] is not finite");
}

// `values` are non-decreasing within each slice of a CSR table.
template <class T>
void check_ascending(const Safetensors& table, const char* name, const Array<T>& values, const Array<std::int64_t>& offsets) {
  for (std::size_t row = 0; row + 1 < offsets.size; ++row)
    for (std::int64_t i = offsets[row] + 1; i < offsets[row + 1]; ++i) {
      const auto index = static_cast<std::size_t>(i);
      if (values[index - 1] > values[index])
        fail(REXIT_CORRUPT, table.path(), ": `", name, "`[", index, "] is smaller than its predecessor in row ", row);
    }
}

// Ids as in the user's data, and their rows.

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

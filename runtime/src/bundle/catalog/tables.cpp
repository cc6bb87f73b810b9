#include "bundle/catalog/tables.hpp"

#include <algorithm>

#include "base/status.hpp"

namespace rexit::core {

Ids::Ids(const Safetensors& table, const std::string& kind, std::size_t count)
    : table_(table), strings_(kind == "string"), count_(count) {
  if (strings_) {
    bytes_ = table.array<std::uint8_t>("id_bytes", {std::nullopt});
    offsets_ = table.array<std::int64_t>("id_offsets", {count + 1});
  } else {
    numbers_ = table.array<std::int64_t>("ids", {count});
  }
}

void Ids::check() const {
  if (strings_) check_offsets(table_, "id_offsets", offsets_, bytes_.size);
  for (std::size_t i = 1; i < count_; ++i)
    if (strings_ ? !(string_at(i - 1) < string_at(i)) : numbers_[i - 1] >= numbers_[i])
      fail(REXIT_CORRUPT, table_.path(), ": `", strings_ ? "id_bytes" : "ids", "` does not ascend at row ", i);
}

std::optional<Row> Ids::find(std::int64_t number) const noexcept {
  const auto* match = std::lower_bound(numbers_.begin(), numbers_.end(), number);
  if (match == numbers_.end() || *match != number) return std::nullopt;
  return static_cast<Row>(match - numbers_.begin());
}

std::optional<Row> Ids::find(std::string_view text) const {
  std::size_t low = 0, high = strings_ ? count_ : 0;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (string_at(middle) < text) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (!strings_ || low == count_ || string_at(low) != text) return std::nullopt;
  return static_cast<Row>(low);
}

std::string Ids::text(Row row) const {
  const auto index = static_cast<std::size_t>(row);
  return strings_ ? "'" + std::string(string_at(index)) + "'" : std::to_string(numbers_[index]);
}

// char_traits<char> compares as unsigned char: the order of UTF-8 bytes, as the format requires.
std::string_view Ids::string_at(std::size_t row) const {
  const auto [begin, end] = slice_of(table_, "id_offsets", offsets_, row, bytes_.size);
  return {reinterpret_cast<const char*>(bytes_.data) + begin, end - begin};
}

}  // namespace rexit::core

// The rows of a table of halves that have the largest products with a vector, exactly: products of halves are exact in float32
// and their sums in float64, so neither the order of summation nor the machine changes who is nearest.
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "bundle/catalog/tables.hpp"
#include "files/half.hpp"

namespace rexit::core {

using Ranked = std::pair<double, std::size_t>;  // product, number

// Products of `x` with `count` rows of halves; not finite where a row is not.
void half_products(const std::vector<float>& x, const Half* rows, std::size_t count, double* products);

bool is_zero_vector(const Half* vector, std::size_t dim) noexcept;

// Sets `direction` to that of a sum of halves, and returns its length: 0 if there is no direction. The divisor is a power of two,
// so the only rounding is that of each component to a half.
double set_direction(const std::vector<double>& sum, std::vector<float>& direction);

// A search. It needs no memory per row.
class NearestRows {
 public:
  void begin(std::size_t count) {
    count_ = count;
    heap_.clear();
  }
  // entry(row): the number that the row is ranked by, nullopt if it is left out. It is called for rows that may be among the
  // nearest, and for those that are not finite, which it must refuse. read(count): called before so many rows are read.
  template <class Entry, class Read>
  void add(const std::vector<float>& x, const Half* table, Span rows, const Entry& entry, const Read& read) {
    constexpr std::size_t block = 64;
    double products[block];
    for (std::size_t begin = rows.begin; begin < rows.end; begin += block) {
      const std::size_t end = std::min(rows.end, begin + block);
      read(end - begin);
      half_products(x, table + begin * x.size(), end - begin, products);
      for (std::size_t row = begin; row < end; ++row) {
        const double product = products[row - begin];
        if (heap_.size() >= count_ && std::isfinite(product) && (count_ == 0 || product < heap_.front().first)) continue;
        if (const std::optional<std::size_t> number = entry(row)) push({product, *number});
      }
    }
  }
  const std::vector<Ranked>& found() const noexcept { return heap_; }  // in no order
  // Nearest first, ties to the lower number. Ends the search.
  const std::vector<Ranked>& sorted();

  std::size_t memory() const noexcept { return heap_.capacity() * sizeof(Ranked); }

 private:
  void push(const Ranked& entry);

  std::size_t count_ = 0;
  std::vector<Ranked> heap_;  // the nearest, farthest first
};

}  // namespace rexit::core

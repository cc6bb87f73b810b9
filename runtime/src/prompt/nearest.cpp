#include "prompt/nearest.hpp"

#include <algorithm>

#include "kernels/table.hpp"

namespace rexit::core {
namespace {

bool nearer(const Ranked& a, const Ranked& b) noexcept { return a.first != b.first ? a.first > b.first : a.second < b.second; }

}  // namespace

void half_products(const std::vector<float>& x, const Half* rows, std::size_t count, double* products) {
  kernels::table().half_products(x.data(), reinterpret_cast<const std::uint16_t*>(rows), count, x.size(), products);
}

bool is_zero_vector(const Half* vector, std::size_t dim) noexcept { return std::all_of(vector, vector + dim, is_zero); }

double set_direction(const std::vector<double>& sum, std::vector<float>& direction) {
  double largest = 0;
  for (const double x : sum) largest = std::max(largest, std::abs(x));
  if (largest == 0) return 0;
  int exponent = 0;
  std::frexp(largest, &exponent);
  direction.resize(sum.size());
  std::transform(sum.begin(), sum.end(), direction.begin(),
                 [exponent](double x) { return rounded_to_half(std::ldexp(x, -exponent)); });
  double squares = 0;
  kernels::table().inner_products(direction.data(), direction.data(), 1, direction.size(), &squares);
  return std::sqrt(squares);
}

void NearestRows::push(const Ranked& entry) {
  if (heap_.size() < count_) {
    heap_.push_back(entry);
  } else if (!heap_.empty() && nearer(entry, heap_.front())) {
    std::pop_heap(heap_.begin(), heap_.end(), nearer);
    heap_.back() = entry;
  } else {
    return;
  }
  std::push_heap(heap_.begin(), heap_.end(), nearer);
}

const std::vector<Ranked>& NearestRows::sorted() {
  std::sort_heap(heap_.begin(), heap_.end(), nearer);
  return heap_;
}

}  // namespace rexit::core

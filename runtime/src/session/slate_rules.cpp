#include "session/slate_rules.hpp"

#include <algorithm>

namespace rexit::core {

void Places::clear() noexcept {
  lows_.clear();
  highs_.clear();
}

void Places::add(Interval interval) {
  lows_.push_back(interval.low);
  highs_.push_back(interval.high);
}

void Places::sort() noexcept {
  std::sort(lows_.begin(), lows_.end());
  std::sort(highs_.begin(), highs_.end());
}

bool Places::known(Interval one, std::size_t k, bool ordered) const noexcept {
  // Its own interval is among those that may be above it, and never among those that surely are.
  const auto above = static_cast<std::size_t>(highs_.end() - std::lower_bound(highs_.begin(), highs_.end(), one.low)) - 1;
  const auto surely = static_cast<std::size_t>(lows_.end() - std::upper_bound(lows_.begin(), lows_.end(), one.high));
  return surely >= k || (above < k && (!ordered || above == surely));
}

}  // namespace rexit::core

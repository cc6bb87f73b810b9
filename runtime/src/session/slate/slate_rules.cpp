#include "session/slate/slate_rules.hpp"

#include <algorithm>

namespace rexit::core {

void RankIntervals::clear() noexcept {
  lows_.clear();
  highs_.clear();
}

void RankIntervals::add(Interval interval) {
  lows_.push_back(interval.low);
  highs_.push_back(interval.high);
}

void RankIntervals::sort() noexcept {
  std::sort(lows_.begin(), lows_.end());
  std::sort(highs_.begin(), highs_.end());
}

bool RankIntervals::is_settled(Interval interval, std::size_t k, bool ordered) const noexcept {
  // The interval itself counts as possibly above, and never as certainly above.
  const auto possibly_above =
      static_cast<std::size_t>(highs_.end() - std::lower_bound(highs_.begin(), highs_.end(), interval.low)) - 1;
  const auto certainly_above =
      static_cast<std::size_t>(lows_.end() - std::upper_bound(lows_.begin(), lows_.end(), interval.high));
  return certainly_above >= k || (possibly_above < k && (!ordered || possibly_above == certainly_above));
}

}  // namespace rexit::core

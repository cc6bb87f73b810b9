#include "session/stops.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace rexit::core {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The k-th largest number and the next; minus infinity where there are fewer. Reorders `numbers`.
struct Largest {
  Largest(std::vector<float>& numbers, std::size_t k) {
    if (k > numbers.size()) return;
    const auto place = numbers.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(numbers.begin(), place, numbers.end(), std::greater<>());
    kth = *place;
    if (place + 1 != numbers.end()) next = *std::max_element(place + 1, numbers.end());
  }

  float kth = -infinity, next = -infinity;
};

// How far c at each exit moves, at most, if log-odds move by up to the margin: [exits]; negative for a negative margin.
std::vector<float> slacks_of(const Policy& policy, float margin) {
  std::vector<float> slacks;
  for (std::size_t k = 0; k < policy.exits.size(); ++k) {
    float slope = std::fabs(policy.exits[k].a);
    for (std::size_t j = 0; j < k && !policy.earlier.empty(); ++j) slope += std::fabs(policy.earlier_weights(k)[j]);
    slacks.push_back(slope * margin);
  }
  return slacks;
}

// Where rule 1 stops a candidate; the last exit if it does nowhere. log_odds: [exits]. `exact`: all slacks are 0.
template <bool exact>
std::int64_t first_confident(const Policy& policy, const float* log_odds, const float* slacks) {
  const ExitRule* rules = policy.exits.data();
  const std::size_t last = policy.exits.size() - 1, patience = policy.patience;
  const bool reads_earlier = !policy.earlier.empty();
  Agreement agreement;
  std::size_t k = 0;
  for (; k < last; ++k) {
    const float c = reads_earlier ? policy.calibrated(k, log_odds) : rules[k].calibrated(log_odds[k]);
    const float slack = exact ? 0 : slacks[k];
    agreement.add(c, slack);
    if (rules[k].confident(c, slack) & (agreement.heads >= patience)) break;
  }
  return static_cast<std::int64_t>(k);
}

// replay() where no candidate is compared with another. A quorum of q stops a slate where its (q + 1)-th last candidate stops.
template <bool exact>
void replay_alone(const Policy& policy, const RecordedSlates& recorded, std::int64_t* exits, const float* slacks) {
  const std::size_t rows = recorded.rows(), width = policy.exits.size();
  for (std::size_t i = 0; i < rows; ++i) exits[i] = first_confident<exact>(policy, recorded.log_odds + i * width, slacks);
  std::vector<std::int64_t> latest;
  for (std::size_t slate = 0; slate < recorded.slates && policy.quorum != 0; ++slate) {
    std::int64_t *begin = exits + recorded.offsets[slate], *end = exits + recorded.offsets[slate + 1];
    latest.assign(begin, end);
    std::int64_t last = 0;
    if (policy.quorum < latest.size()) {
      const auto place = latest.begin() + static_cast<std::ptrdiff_t>(policy.quorum);
      std::nth_element(latest.begin(), place, latest.end(), std::greater<>());
      last = *place;
    }
    std::for_each(begin, end, [last](std::int64_t& exit) { exit = std::min(exit, last); });
  }
}

}  // namespace

void SlateStops::begin(std::size_t candidates) {
  standings_.assign(candidates, {});
  undecided_.resize(candidates);
  std::iota(undecided_.begin(), undecided_.end(), 0u);
}

void SlateStops::apply_slate_rules(const Policy& policy, std::size_t exit, const float* slacks) {
  drop_stopped();
  if (policy.top_k.k != 0 && !undecided_.empty()) {
    stop_settled(policy.top_k, slacks);
    drop_stopped();
  }
  if (const std::size_t keep = policy.keep_after(exit); keep != 0 && undecided_.size() > keep)
    keep_best(keep, slacks != nullptr ? slacks[exit] : 0);
  if (undecided_.size() > policy.quorum) return;
  for (const std::uint32_t i : undecided_) set_stopped(i, true);
  undecided_.clear();
}

// Without branches: who stops cannot be predicted.
void SlateStops::drop_stopped() {
  std::size_t count = 0;
  for (const std::uint32_t i : undecided_) {
    undecided_[count] = i;
    count += stopped(i) ? 0 : 1;
  }
  undecided_.resize(count);
}

SlateStops::Interval SlateStops::interval(const TopK& rule, const Standing& standing, const float* slacks) const noexcept {
  const float slack = slacks != nullptr ? slacks[standing.exit] : 0;
  return {standing.c + slack - rule.fall[standing.exit], standing.c - slack + rule.rise[standing.exit]};
}

// Stops those of which it is certain whether they are among the best k; if `ordered`, among the best k only with a certain rank.
void SlateStops::stop_settled(const TopK& rule, const float* slacks) {
  const std::size_t k = rule.k;
  lows_.clear();
  highs_.clear();
  for (const Standing& standing : standings_) {
    const Interval ends = interval(rule, standing, slacks);
    lows_.push_back(ends.low);
    highs_.push_back(ends.high);
  }
  // A positive slack may have put an interval's low end above its high one. No interval counts for itself.
  if (!rule.ordered) {
    const bool all_inside = standings_.size() <= k;
    const Largest low(lows_, k), high(highs_, k);
    for (const std::uint32_t i : undecided_) {
      const Interval own = interval(rule, standings_[i], slacks);
      const bool crossed = own.low > own.high;
      const bool surely_out = (crossed ? low.next : low.kth) > own.high, surely_in = (crossed ? high.kth : high.next) < own.low;
      set_stopped(i, all_inside || surely_out || surely_in);
    }
    return;
  }
  std::sort(lows_.begin(), lows_.end());
  std::sort(highs_.begin(), highs_.end());
  for (const std::uint32_t i : undecided_) {
    const Interval own = interval(rule, standings_[i], slacks);
    const auto possibly_above = highs_.end() - std::lower_bound(highs_.begin(), highs_.end(), own.low) - (own.low <= own.high);
    const auto surely_above = lows_.end() - std::upper_bound(lows_.begin(), lows_.end(), own.high) - (own.low > own.high);
    const auto places = static_cast<std::ptrdiff_t>(k);
    set_stopped(i, surely_above >= places || (possibly_above < places && possibly_above <= surely_above));
  }
}

// Stops the undecided candidates, more than `count`, than which at least `count` have a larger c: equals share one fate. With a
// slack, those that may be such, or with a negative one only those that surely are.
void SlateStops::keep_best(std::size_t count, float slack) {
  lows_.clear();
  for (const std::uint32_t i : undecided_) lows_.push_back(standings_[i].c);
  const Largest best(lows_, count);
  for (const std::uint32_t i : undecided_) {
    const float c = standings_[i].c;
    set_stopped(i, slack > 0 ? best.next >= c - 2 * slack : best.kth > c - 2 * slack);
  }
  drop_stopped();
}

void replay(const Policy& policy, const RecordedSlates& recorded, std::int64_t* exits, float margin) {
  const std::size_t width = policy.exits.size(), patience = policy.patience;
  const bool reads_earlier = !policy.earlier.empty();
  const std::vector<float> slacks = slacks_of(policy, margin);
  if (!policy.compares_candidates())
    return margin != 0 ? replay_alone<false>(policy, recorded, exits, slacks.data())
                       : replay_alone<true>(policy, recorded, exits, slacks.data());
  SlateStops stops;
  for (std::size_t slate = 0; slate < recorded.slates; ++slate) {
    const auto begin = static_cast<std::size_t>(recorded.offsets[slate]);
    const std::size_t count = static_cast<std::size_t>(recorded.offsets[slate + 1]) - begin;
    stops.begin(count);
    for (std::size_t k = 0; k + 1 < width && !stops.undecided().empty(); ++k) {
      const ExitRule rule = policy.exits[k];
      const float slack = slacks[k], *log_odds = recorded.log_odds + begin * width;
      for (const std::uint32_t i : stops.undecided()) {
        const float c = reads_earlier ? policy.calibrated(k, log_odds + i * width) : rule.calibrated(log_odds[i * width + k]);
        stops.set_stopped(i, stops.reach(i, k, rule, patience, c, slack));
      }
      stops.apply_slate_rules(policy, k, margin != 0 ? slacks.data() : nullptr);
    }
    for (std::size_t i = 0; i < count; ++i)
      exits[begin + i] = static_cast<std::int64_t>(stops.stopped(i) ? stops.exit(i) : width - 1);
  }
}

void replay_range(const Policy& policy, const RecordedSlates& recorded, float margin, std::int64_t* earliest,
                  std::int64_t* latest) {
  replay(policy, recorded, earliest, margin);
  replay(policy, recorded, latest, -margin);
  if (!policy.has_slate_rules()) return;
  const auto last = static_cast<std::int64_t>(policy.exits.size()) - 1;
  for (std::size_t slate = 0; slate < recorded.slates; ++slate) {
    std::int64_t first = last + 1;
    for (std::int64_t i = recorded.offsets[slate]; i < recorded.offsets[slate + 1]; ++i)
      if (earliest[i] < latest[i]) first = std::min(first, earliest[i]);
    for (std::int64_t i = recorded.offsets[slate]; i < recorded.offsets[slate + 1]; ++i) {
      if (latest[i] < first) continue;
      earliest[i] = first;
      latest[i] = last;
    }
  }
}

}  // namespace rexit::core

#include "session/slate/utility.hpp"

#include <algorithm>
#include <cmath>

namespace rexit::core {
namespace {

// Bounds c: exp(-700) is far from underflow, also where it is multiplied by a weight.
constexpr float max_log_odds = 700;

}  // namespace

void Utility::set_weights(const std::vector<float>& weights) {
  double size = 0;
  for (const float weight : weights) size = std::max(size, std::fabs(static_cast<double>(weight)));
  weights_.clear();
  for (const float weight : weights) weights_.push_back(static_cast<double>(weight) / size);
}

// u / (1 - u) = good / bad, sums of terms of one sign: nothing cancels, and neither sum is 0.
float Utility::log_odds(const rexit_platt* maps, const float* log_odds, float* probabilities) const noexcept {
  double good = 0, bad = 0;
  for (std::size_t k = 0; k < weights_.size(); ++k) {
    const float c = std::clamp(maps[k].a * log_odds[k] + maps[k].b, -max_log_odds, max_log_odds);
    const double small = std::exp(-std::fabs(static_cast<double>(c))), likely = 1 / (1 + small), unlikely = small / (1 + small);
    const double yes = c >= 0 ? likely : unlikely, no = c >= 0 ? unlikely : likely;
    probabilities[k] = static_cast<float>(yes);
    const double weight = weights_[k];
    good += weight >= 0 ? weight * yes : -weight * no;
    bad += weight >= 0 ? weight * no : -weight * yes;
  }
  return static_cast<float>(std::log(good / bad));
}

}  // namespace rexit::core

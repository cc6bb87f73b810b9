// Several objectives: a candidate's log-odds, one per objective, become those of the utility, by which it stops and ranks.
// src/rexit/bundle/policy/utility.py is the same in Python, to the bit.
#pragma once

#include <vector>

#include "rexit/rexit.h"

namespace rexit::core {

class Utility {
 public:
  // `weights`: [objectives], finite and not all 0.
  void set_weights(const std::vector<float>& weights);

  // The utility's log-odds of a candidate at an exit. `maps`: the exit's, `log_odds`: its heads', both [objectives]. Writes the
  // objectives' calibrated probabilities, [objectives].
  float log_odds(const rexit_platt* maps, const float* log_odds, float* probabilities) const noexcept;

 private:
  std::vector<double> weights_;  // divided by the largest in size
};

}  // namespace rexit::core

// When the candidates of a slate stop. docs/format/policy.md states the rules; a session follows them exit by exit, and replays
// of recorded log-odds do the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bundle/policy.hpp"

namespace rexit::core {

class SlateStops {
 public:
  // All candidates are undecided. Buffers are reused.
  void begin(std::size_t candidates);
  // An undecided candidate has reached the next exit, whose rule is `rule`. Returns whether rule 1 stops it there. `slack`: see
  // replay().
  bool reach(std::size_t candidate, std::size_t exit, const ExitRule& rule, std::size_t patience, float c,
             float slack = 0) noexcept {
    Standing& standing = standings_[candidate];
    standing.c = c;
    standing.exit = static_cast<std::uint32_t>(exit);
    standing.agreement.add(c, slack);
    return rule.confident(c, slack) & (standing.agreement.heads >= patience);
  }
  void set_stopped(std::size_t candidate, bool stopped) noexcept { standings_[candidate].stopped = stopped; }
  // Rules 2 to 4, once all undecided candidates have reached the exit.
  void apply_slate_rules(const Policy& policy, std::size_t exit, const float* slacks = nullptr);

  bool stopped(std::size_t candidate) const noexcept { return standings_[candidate].stopped; }
  std::size_t exit(std::size_t candidate) const noexcept { return standings_[candidate].exit; }  // the deepest that it reached
  const std::vector<std::uint32_t>& undecided() const noexcept { return undecided_; }  // as of begin() or apply_slate_rules()

  std::size_t memory() const noexcept {
    return standings_.capacity() * sizeof(Standing) + undecided_.capacity() * sizeof(std::uint32_t) +
           (lows_.capacity() + highs_.capacity()) * sizeof(float);
  }

 private:
  struct Standing {
    float c = 0;  // at `exit`
    std::uint32_t exit = 0;
    Agreement agreement;
    bool stopped = false;
  };
  // A candidate's c at the last exit is in it.
  struct Interval {
    float low, high;
  };

  Interval interval(const TopK& rule, const Standing& standing, const float* slacks) const noexcept;
  void stop_settled(const TopK& rule, const float* slacks);
  void keep_best(std::size_t count, float slack);
  void drop_stopped();

  std::vector<Standing> standings_;
  std::vector<std::uint32_t> undecided_;  // ascending
  std::vector<float> lows_, highs_;       // of all intervals; keep_best() has its candidates' c in lows_
};

// Slates whose log-odds at every exit were recorded: row i of `log_odds`, [rows, exits], is a candidate, and slate s has rows
// [offsets[s], offsets[s + 1]).
struct RecordedSlates {
  const float* log_odds;
  const std::int64_t* offsets;
  std::size_t slates;

  std::size_t rows() const noexcept { return static_cast<std::size_t>(offsets[slates]); }
};

// Where the policy stops each candidate: `exits`, [rows]. With a margin above 0, log-odds are known to within it, and whatever
// lies within it is decided for stopping; below 0, against it.
void replay(const Policy& policy, const RecordedSlates& recorded, std::int64_t* exits, float margin = 0);

// The earliest and the latest exit where each candidate may stop, [rows] each, if log-odds are known to within the margin: two
// computations of the same trace differ by rounding. Where a rule for whole slates is in force, a candidate with two exits
// changes what the others are compared with: from the first exit on where one has, every exit is valid for those that reach it.
void replay_range(const Policy& policy, const RecordedSlates& recorded, float margin, std::int64_t* earliest,
                  std::int64_t* latest);

}  // namespace rexit::core

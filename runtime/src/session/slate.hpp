// Runs a slate after its prefix, segment by segment, and drops candidates that have stopped.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "backends/backend.hpp"
#include "base/clock.hpp"
#include "bundle/bundle.hpp"
#include "bundle/policy.hpp"
#include "prompt/prompt.hpp"
#include "session/counters.hpp"
#include "session/prefix/merged_past.hpp"
#include "session/prefix/prefix_cache.hpp"
#include "session/slate_rules.hpp"
#include "session/utility.hpp"
#include "session/vector_rows.hpp"

namespace rexit::core {

// Where candidates stop.
struct StopRule {
  const Policy* policy;                         // its maps always apply
  std::optional<std::size_t> force_exit;        // all candidates stop there and nowhere else
  std::size_t top_k = 0;                        // the request's; 0: the policy's k
  Counters* counters = nullptr;                 // null: not counted
  float* trace = nullptr;                       // raw log-odds [candidates, exits, objectives]; if set, all run to the last exit
  const std::vector<float>* weights = nullptr;  // of the utility, with several objectives; null: the policy's
};

struct Answer {
  std::uint32_t exit = REXIT_NO_EXIT;
  float log_odds = std::numeric_limits<float>::quiet_NaN();  // with several objectives the utility's
  float calibrated = std::numeric_limits<float>::quiet_NaN();
  bool cut_short = false;

  bool has_exit() const noexcept { return exit != REXIT_NO_EXIT; }
};

struct SlateStats {
  std::uint64_t candidate_layers = 0, prefix_layers = 0;
  double prefix_us = 0, slate_us = 0;
  std::size_t prefix_tokens_reused = 0;  // only of run_together(); see PrefixCache::set_current
};

// A slate to run, and its answers. Runs reuse its memory.
struct SlateTask {
  const Prompt* prompt = nullptr;
  StopRule rule{};
  const Deadline* deadline = nullptr;
  SlateStats* stats = nullptr;  // added to, also if the run throws

  std::vector<Answer> answers{};       // of the prompt's candidates
  std::vector<float> probabilities{};  // [candidates, objectives], calibrated, at those exits; with several objectives
  std::vector<float> log_odds{};       // [candidates, exits] so far, if the policy reads earlier heads
  std::size_t past_begin = 0;          // of its prefix in the MergedPast

  bool has_answer() const noexcept;  // of any candidate
  std::size_t memory() const noexcept {
    return answers.capacity() * sizeof(Answer) + (probabilities.capacity() + log_odds.capacity()) * sizeof(float);
  }
};

// Throws REXIT_DEADLINE: no candidate has an answer.
[[noreturn]] void fail_late();

class Slate {
 public:
  // All must outlive the slate. Runs reuse its buffers. `hidden_bytes`: limit for the candidates' hidden states between two
  // segments, except that a single pass always fits; 0: the default.
  Slate(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t hidden_bytes = 0);

  // Returns the answers of `prompt`'s candidates. `prompt`'s prefix must be current in `prefix`, and its vectors in the
  // VectorRows. If the deadline passes, a candidate's answer is that of the deepest exit it has reached, or none. Throws
  // REXIT_DEADLINE if no candidate has an answer, and REXIT_BACKEND_FAILED if a head's logits are not finite. Fills `stats` in
  // all cases.
  //
  // If the candidates' hidden states together exceed hidden_bytes, the slate runs in consecutive parts, each to its end. A rule
  // of the whole slate needs all candidates at an exit: throws REXIT_TOO_LONG then.
  const std::vector<Answer>& run(const Prompt& prompt, PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                                 SlateStats& stats);

  // [candidates, objectives], calibrated, at the exits that answered the last run(); NaN without an answer. Empty with a single
  // objective.
  const std::vector<float>& probabilities() const noexcept { return task_.probabilities; }
  // Whether `prompt` may run together with others: the backend takes several prefixes, and the candidates have no user's vector.
  bool may_run_together(const Prompt& prompt) const;
  // Runs several slates, with all their candidates in one pass per segment: together at most Variant::max_tokens. They need not
  // be current in `prefix`. The answers are those of separate runs; the deadline of one does not stop the others: if it passes
  // before any candidate of a task has an answer, then the task has none. Throws REXIT_BACKEND_FAILED as run() does, for all of
  // them.
  void run_together(std::vector<SlateTask>& tasks, PrefixCache& prefix);

  std::size_t memory() const noexcept;

 private:
  struct Candidate {
    SlateTask* task;
    std::uint32_t index;
    std::size_t begin, tokens;  // in the packed arrays
    Agreement agreement;
    bool stopped = false;
  };

  std::size_t part_end(const Prompt& prompt, std::size_t begin) const;
  void begin(SlateTask& task) const;
  void clear_packed() noexcept;
  bool run_part(PrefixCache& prefix);
  void pack(SlateTask& task, std::size_t begin, std::size_t end);
  std::size_t task_end(std::size_t begin) const noexcept;
  void merge_prefixes(PrefixCache& prefix, std::size_t segment);
  void set_spans();
  void run_shared(std::size_t segment);
  bool deepen(PrefixCache& prefix, std::size_t segment, const Deadline& deadline, SlateStats& stats) const;
  std::size_t chunk_end(std::size_t begin) const;
  void run_chunk(std::size_t segment, std::size_t begin, std::size_t end, Pass pass);
  std::size_t row_bytes() const noexcept;
  float log_odds(const Candidate& candidate, std::size_t segment, const float* logits) const;
  float utility_log_odds(const Candidate& candidate, std::size_t segment, const float* logits);
  void apply_exit_rules(std::size_t segment, std::size_t begin, std::size_t end, const float* logits);
  void apply_exit_rule(Candidate& candidate, std::size_t segment, float z);
  void apply_slate_rules(std::size_t segment, std::size_t begin, std::size_t end);
  void cut_short(std::size_t first_waiting);
  void compact(std::size_t segment);

  const Bundle& bundle_;
  const Backend& backend_;
  VectorRows& vectors_;
  const std::size_t hidden_bytes_, objectives_;
  SlateTask task_;                 // of run()
  std::vector<Candidate> active_;  // of the running part; a task's candidates are adjacent
  RankIntervals ranks_;
  Utility utility_;  // of one task after the other; this and the next: with several objectives
  std::vector<float> candidate_log_odds_;
  std::vector<std::int64_t> token_ids_, positions_, groups_, rows_;
  std::vector<float> logits_;
  Block hidden_, hidden_next_;  // input and output of the running segment
  MergedPast past_;             // of run_together(), with `spans_`
  std::vector<PastSpan> spans_;
  std::vector<RowMove> moves_;
};

}  // namespace rexit::core

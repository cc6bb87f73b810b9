// Runs a slate behind its prefix, segment by segment, and drops each candidate where it stops.
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
#include "session/prefix_cache.hpp"
#include "session/slate_rules.hpp"
#include "session/vector_rows.hpp"

namespace rexit::core {

// Where candidates stop.
struct StopRule {
  const Policy* policy;                   // its Platt maps apply in any case
  std::optional<std::size_t> force_exit;  // all candidates stop there and nowhere else
  std::size_t top_k = 0;                  // the request's; 0: the policy's own
  Counters* counters = nullptr;           // if set, is told who reaches which exit
  float* trace = nullptr;                 // if set, receives the raw log-odds [candidates, exits], and all run to the last exit
};

struct Answer {
  std::uint32_t exit = REXIT_NO_EXIT;
  float log_odds = std::numeric_limits<float>::quiet_NaN();
  float calibrated = std::numeric_limits<float>::quiet_NaN();
  bool cut_short = false;

  bool given() const noexcept { return exit != REXIT_NO_EXIT; }
};

struct SlateStats {
  std::uint64_t candidate_layers = 0, prefix_layers = 0;
  double prefix_us = 0, slate_us = 0;
};

class Slate {
 public:
  // All must outlive the slate. Buffers are reused from run to run. `hidden_bytes`: how much of candidates' hidden states is held
  // between two segments, but for one pass; 0: the default.
  Slate(const Bundle& bundle, const Backend& backend, VectorRows& vectors, std::size_t hidden_bytes = 0);

  // One answer per candidate of `prompt`, whose prefix must be the one in use in `prefix`, and whose vectors those of the slate's
  // VectorRows. If the deadline passes, candidates that have reached an exit are answered from the deepest one, and the others
  // get no answer; throws REXIT_DEADLINE if none has. Throws REXIT_BACKEND_FAILED if a head's logits are not finite. `stats` is
  // filled in either case.
  //
  // Candidates whose hidden states do not fit into hidden_bytes together run in parts, one after the other, each to its end.
  // Throws REXIT_TOO_LONG if the rule is one of the whole slate, which needs all of them at each exit.
  const std::vector<Answer>& run(const Prompt& prompt, PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                                 SlateStats& stats);

  std::size_t memory() const noexcept;

 private:
  struct Candidate {
    std::uint32_t index;
    std::size_t begin, tokens;  // its tokens in the packed arrays
    Agreement agreement;
    bool stopped = false;
  };

  std::size_t part_end(const Prompt& prompt, std::size_t begin) const;
  bool run_part(PrefixCache& prefix, const StopRule& rule, const Deadline& deadline, SlateStats& stats);
  void pack(const Prompt& prompt, std::size_t begin, std::size_t end);
  bool deepen(PrefixCache& prefix, std::size_t segment, const Deadline& deadline, SlateStats& stats) const;
  std::size_t chunk_end(std::size_t begin) const;
  void run_chunk(std::size_t segment, std::size_t begin, std::size_t end, const PrefixCache& prefix);
  std::size_t row_bytes() const noexcept;
  void judge(Candidate& candidate, std::size_t segment, const float* logits, const StopRule& rule);
  void judge_together(std::size_t segment, const StopRule& rule);
  void cut_short(std::size_t waiting);
  void compact();

  const Bundle& bundle_;
  const Backend& backend_;
  VectorRows& vectors_;
  const std::size_t hidden_bytes_;
  std::vector<Candidate> active_;  // of the part that runs
  std::vector<Answer> answers_;
  Places places_;
  std::vector<std::int64_t> token_ids_, positions_, groups_, rows_;
  std::vector<float> logits_;
  Block hidden_, hidden_next_;  // of the part, and what a pass writes
};

}  // namespace rexit::core

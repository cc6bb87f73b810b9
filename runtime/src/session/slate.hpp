// Runs a slate behind a prefix, segment by segment, dropping each candidate where it stops.
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
#include "session/prefix_cache.hpp"

namespace rexit::core {

// What decides where candidates stop.
struct StopRule {
  const Policy* policy;                   // also gives the Platt maps
  std::optional<std::size_t> force_exit;  // stop there and nowhere else
  float* trace = nullptr;                 // [candidates, exits] raw log-odds; set: nobody stops before the last exit
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
  // Both must outlive the slate. Buffers are kept from run to run.
  Slate(const Bundle& bundle, const Backend& backend);

  // One answer per candidate of `prompt`, whose prefix `prefix` already holds as its key. Where the deadline ends it, candidates
  // that had reached an exit answer from there, and the others not; throws REXIT_DEADLINE when none had. Throws
  // REXIT_BACKEND_FAILED when a head gives something that is no number. `stats` are filled as far as it came.
  const std::vector<Answer>& run(const Prompt& prompt, PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                                 SlateStats& stats);

  std::size_t memory() const noexcept;

 private:
  struct Candidate {
    std::uint32_t index;
    std::size_t begin, tokens;  // where its tokens lie in the packed arrays
    Agreement agreement;
    bool stopped = false;
  };

  void pack(const Prompt& prompt);
  bool deepen(PrefixCache& prefix, std::size_t segment, const Deadline& deadline, SlateStats& stats) const;
  std::size_t chunk_end(std::size_t begin) const;
  void run_chunk(std::size_t segment, std::size_t begin, std::size_t end, const PrefixCache& prefix);
  void judge(Candidate& candidate, std::size_t segment, const float* logits, const StopRule& rule);
  void cut_short();
  void compact(std::size_t segment);

  const Bundle& bundle_;
  const Backend& backend_;
  std::vector<Candidate> active_;
  std::vector<Answer> answers_;
  std::vector<std::int64_t> token_ids_, positions_, groups_, rows_;
  std::vector<float> logits_;
  Block hidden_, hidden_next_;
};

}  // namespace rexit::core

// Runs a slate after its prefix, segment by segment, and drops candidates that have stopped.
#pragma once

#include <cstddef>
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
#include "session/stops.hpp"

namespace rexit::core {

// Candidates of a slate with the same tokens. What a model computes for them differs in the last bits, by their places in a pass.
class EqualCandidates {
 public:
  // `candidates`: those that are compared, ascending.
  void find(const Prompt& prompt, const std::vector<std::uint32_t>& candidates);
  // The first candidate with the tokens of `candidate`; itself if there is none before it.
  std::size_t first(std::size_t candidate) const noexcept { return first_[candidate]; }
  std::size_t memory() const noexcept { return hashes_.capacity() * sizeof(Hash) + first_.capacity() * sizeof(std::uint32_t); }

 private:
  struct Hash {
    std::uint64_t value;
    std::uint32_t candidate;
  };

  std::vector<Hash> hashes_;
  std::vector<std::uint32_t> first_;
};

// The hidden states of a slate's candidates on their way from segment to segment: two blocks of rows, a row per token. A segment
// reads its input and writes an output, whose rows are then the next segment's input:
//
//   one pass       reads input_, writes outputs_[0]; the blocks swap
//   several        each reads its rows of input_, writes its lane's output from its start, and that is copied over these rows;
//   the
//                  first segment, which reads tokens instead, fills input_ this way
//
// Between segments input_ has all rows, and move() closes the gaps of candidates that have stopped.
class HiddenStates {
 public:
  // The backend must outlive the hidden states.
  HiddenStates(const Backend& backend, std::size_t row_bytes) : backend_(backend), row_bytes_(row_bytes), input_(backend) {
    set_lanes(1);
  }

  std::size_t row_bytes() const noexcept { return row_bytes_; }
  std::size_t bytes() const noexcept {
    std::size_t bytes = input_.bytes();
    for (const Block& output : outputs_) bytes += output.bytes();
    return bytes;
  }

  // Makes room for outputs of so many passes that run at a time.
  void set_lanes(std::size_t count) {
    while (outputs_.size() < count) outputs_.emplace_back(backend_);
  }

  // Call before the first segment, if it takes several passes: makes room for all rows.
  void reserve(std::size_t rows) {
    if (input_.bytes() < outputs_[0].bytes()) input_.swap(outputs_[0]);
    input_.reserve(rows * row_bytes_);
  }
  // A pass's input, and the memory for its output.
  const void* input(std::size_t first_row) const noexcept { return input_.data() + first_row * row_bytes_; }
  void* output(std::size_t rows, std::size_t lane) { return outputs_[lane].reserve(rows * row_bytes_); }

  // Ends a segment's only pass. Call it after the last segment too, though that has no output: with two segments every slate then
  // writes the same block, and the other takes no memory.
  void take_output() noexcept { input_.swap(outputs_[0]); }
  // Ends one of a segment's passes.
  void copy_output(std::size_t first_row, std::size_t rows, std::size_t lane) {
    backend_.copy(input_.data() + first_row * row_bytes_, outputs_[lane].data(), rows * row_bytes_);
  }
  // Moves rows of the next segment's input.
  void move(const std::vector<RowMove>& moves) {
    if (!moves.empty()) backend_.move_rows(input_.data(), row_bytes_, moves.data(), moves.size());
  }

 private:
  const Backend& backend_;
  const std::size_t row_bytes_;
  Block input_;
  std::vector<Block> outputs_;  // by lane
};

// Where candidates stop.
struct StopRule {
  const Policy* policy;                   // its maps always apply
  std::optional<std::size_t> force_exit;  // all candidates stop there and nowhere else
  float* trace = nullptr;                 // raw log-odds [candidates, exits]; if set, all run to the last exit
  float* reached = nullptr;               // likewise, of the exits that each candidate reaches; changes no rule
};

struct Answer {
  std::uint32_t exit = REXIT_NO_EXIT;
  float log_odds = std::numeric_limits<float>::quiet_NaN();
  float calibrated = std::numeric_limits<float>::quiet_NaN();
  bool cut_short = false;

  bool has_exit() const noexcept { return exit != REXIT_NO_EXIT; }
};

struct SlateStats {
  std::uint64_t candidate_tokens = 0, candidate_layers = 0, prefix_layers = 0;
  double prefix_us = 0, slate_us = 0;
};

class Slate {
 public:
  // All must outlive the slate. Runs reuse its buffers. `hidden_bytes`: limit for the candidates' hidden states between two
  // segments, except that a single pass always fits; 0: the default.
  Slate(const Bundle& bundle, const Backend& backend, std::size_t hidden_bytes = 0);

  // Begins a slate of `count` candidates: those that exit zero stops have their answers. `zero`: its log-odds, [count]; null: the
  // bundle has no such exit. `rule` must be that of run(). Throws REXIT_BACKEND_FAILED for log-odds that are not finite.
  void begin(std::size_t count, const float* zero, const StopRule& rule);
  // Those that go on, ascending. Only they need tokens in the prompt.
  const std::vector<std::uint32_t>& entering() const noexcept { return entering_; }
  // Ends the slate without run(), because the deadline has passed. Throws REXIT_DEADLINE without exit zero.
  const std::vector<Answer>& cut_short();

  // Call after begin(). Returns the answers of `prompt`'s candidates. `prompt`'s prefix must be current in `prefix`. If the
  // deadline passes, a candidate's answer is that of the deepest exit it has reached, or none. Throws REXIT_DEADLINE if no
  // candidate has an answer, and REXIT_BACKEND_FAILED if a head's logits are not finite. Fills `stats` in all cases.
  //
  // Candidates with the same tokens get the same log-odds at every exit of a segment, to the bit, if they run in the same part
  // and the first of them gets there.
  //
  // An encoder's passes, if they are many and the backend can, run side by side in threads of their own for the length of a
  // segment. Their answers are those of passes one after another, to the bit.
  //
  // If the candidates' hidden states together exceed hidden_bytes, the slate runs in consecutive parts, each to its end. A rule
  // of the whole slate needs all candidates at an exit: throws REXIT_TOO_LONG then.
  const std::vector<Answer>& run(const Prompt& prompt, PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                                 SlateStats& stats);

  std::size_t memory() const noexcept;

 private:
  struct Candidate {
    std::uint32_t index;
    std::size_t begin, tokens;  // in the packed arrays
  };

  void begin_zero(const float* zero, const StopRule& rule);
  std::size_t part_end(const Prompt& prompt, std::size_t begin) const;
  bool run_part(PrefixCache& prefix, const StopRule& rule, const Deadline& deadline, SlateStats& stats);
  bool run_segment(std::size_t segment, const PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                   SlateStats& stats);
  void pack(const Prompt& prompt, std::size_t begin, std::size_t end);
  bool deepen(PrefixCache& prefix, std::size_t segment, const Deadline& deadline, SlateStats& stats) const;
  void split();
  std::size_t run_chunks(std::size_t segment, const PrefixCache& prefix, const Deadline& deadline);
  void run_chunk(std::size_t segment, std::size_t chunk, const PrefixCache& prefix, std::size_t lanes, std::size_t lane);
  void read_chunks(std::size_t segment, std::size_t end, const StopRule& rule);
  float log_odds(const Candidate& candidate, std::size_t segment, const float* logits) const;
  void apply_exit_rule(const Candidate& candidate, std::size_t exit, float z, const StopRule& rule);
  void apply_slate_rules(std::size_t exit, const StopRule& rule);
  void cut_short(std::size_t first_waiting);
  void compact();

  const Bundle& bundle_;
  const Backend& backend_;
  const std::size_t hidden_bytes_;
  EqualCandidates equal_;
  std::vector<std::uint32_t> entering_;  // indices, ascending
  std::vector<Candidate> active_;        // in the running part
  SlateStops stops_;
  std::vector<Answer> answers_;
  std::vector<float> log_odds_;      // [candidates, exits] so far, if the policy reads earlier heads
  std::vector<std::size_t> chunks_;  // where each pass of the running segment begins in active_, and where the last one ends
  std::vector<std::int64_t> token_ids_, positions_, groups_;
  std::vector<std::int64_t> rows_;  // by active candidate: its last token's in its pass
  std::vector<float> logits_;       // [active candidates, 2]
  HiddenStates hidden_;
  std::vector<RowMove> moves_;
};

}  // namespace rexit::core

#include "session/slate.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/status.hpp"
#include "base/threads.hpp"

namespace rexit::core {

namespace {

// FNV-1a over tokens instead of bytes.
std::uint64_t hash(const std::int32_t* tokens, std::size_t count) {
  std::uint64_t value = 14695981039346656037u;
  for (std::size_t t = 0; t < count; ++t) value = (value ^ static_cast<std::uint32_t>(tokens[t])) * 1099511628211u;
  return value;
}

bool have_equal_tokens(const Prompt& prompt, std::size_t a, std::size_t b) {
  const std::int32_t *tokens = prompt.candidate(a), *others = prompt.candidate(b);
  return std::equal(tokens, tokens + prompt.candidate_tokens(a), others, others + prompt.candidate_tokens(b));
}

}  // namespace

void EqualCandidates::find(const Prompt& prompt, const std::vector<std::uint32_t>& candidates) {
  hashes_.clear();
  first_.resize(prompt.candidates());
  for (const std::uint32_t i : candidates) {
    hashes_.push_back({hash(prompt.candidate(i), prompt.candidate_tokens(i)), i});
    first_[i] = i;
  }
  std::sort(hashes_.begin(), hashes_.end(),
            [](const Hash& a, const Hash& b) { return a.value != b.value ? a.value < b.value : a.candidate < b.candidate; });
  for (std::size_t n = 1; n < hashes_.size(); ++n) {
    const std::uint32_t first = first_[hashes_[n - 1].candidate], candidate = hashes_[n].candidate;
    if (hashes_[n].value == hashes_[n - 1].value && have_equal_tokens(prompt, first, candidate)) first_[candidate] = first;
  }
}

namespace {

constexpr std::size_t default_hidden_bytes = std::size_t{256} << 20;

// Whether rules for whole slates apply from `first_exit` on.
bool has_slate_rules(const StopRule& rule, std::size_t first_exit) {
  return rule.trace == nullptr && !rule.force_exit && rule.policy->has_slate_rules(first_exit);
}

}  // namespace

Slate::Slate(const Bundle& bundle, const Backend& backend, std::size_t hidden_bytes)
    : bundle_(bundle),
      backend_(backend),
      hidden_bytes_(hidden_bytes != 0 ? hidden_bytes : default_hidden_bytes),
      hidden_(backend, bundle.model().hidden_size * bytes_of(bundle.variant().segments.front().hidden_dtype)) {}

void Slate::begin(std::size_t count, const float* zero, const StopRule& rule) {
  answers_.assign(count, Answer{});
  stops_.begin(count);
  if (!rule.policy->earlier.empty()) log_odds_.resize(count * bundle_.exits());
  entering_.clear();
  active_.clear();
  if (zero != nullptr) return begin_zero(zero, rule);
  for (std::uint32_t i = 0; i < count; ++i) entering_.push_back(i);
}

void Slate::begin_zero(const float* zero, const StopRule& rule) {
  for (std::uint32_t i = 0; i < answers_.size(); ++i) {
    active_.push_back({i, 0, 0});
    if (!std::isfinite(zero[i]))
      fail(REXIT_BACKEND_FAILED, bundle_.where_exit(0), ": candidate ", i, "'s log-odds, ", zero[i], ", are not finite");
    apply_exit_rule(active_.back(), 0, zero[i], rule);
  }
  apply_slate_rules(0, rule);
  for (const Candidate& candidate : active_)
    if (!stops_.stopped(candidate.index)) entering_.push_back(candidate.index);
  active_.clear();
}

const std::vector<Answer>& Slate::run(const Prompt& prompt, PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                                      SlateStats& stats) {
  const std::size_t count = entering_.size();
  if (const std::size_t end = part_end(prompt, 0); end < count && has_slate_rules(rule, bundle_.exit_of(0)))
    fail(REXIT_TOO_LONG, "the policy has rules for the whole slate, but hidden states of only ", end, " of its ", count,
         " candidates fit into ", hidden_bytes_, " bytes; see slate_bytes");
  equal_.find(prompt, entering_);
  for (const std::uint32_t i : entering_) stats.candidate_tokens += prompt.candidate_tokens(i);
  for (std::size_t begin = 0; begin < count;) {
    const std::size_t end = part_end(prompt, begin);
    pack(prompt, begin, end);
    if (!run_part(prefix, rule, deadline, stats)) {
      cut_short(end);
      break;
    }
    begin = end;
  }
  return answers_;
}

// The largest `end` such that the hidden states of entering candidates [begin, end) fit; at least a pass.
std::size_t Slate::part_end(const Prompt& prompt, std::size_t begin) const {
  const std::size_t count = entering_.size();
  if (bundle_.segments() == 1 || count == 0) return count;
  const std::size_t max_tokens = std::max(hidden_bytes_ / hidden_.row_bytes(), bundle_.variant().max_tokens);
  std::size_t end = begin + 1, tokens = prompt.candidate_tokens(entering_[begin]);
  for (; end < count; ++end) {
    tokens += prompt.candidate_tokens(entering_[end]);
    if (tokens > max_tokens) break;
  }
  return end;
}

// Returns false if the deadline passed.
bool Slate::run_part(PrefixCache& prefix, const StopRule& rule, const Deadline& deadline, SlateStats& stats) {
  for (std::size_t segment = 0; !active_.empty(); ++segment) {
    if (!deepen(prefix, segment, deadline, stats)) return false;
    const Timer timer(stats.slate_us);
    if (!run_segment(segment, prefix, rule, deadline, stats)) return false;
    apply_slate_rules(bundle_.exit_of(segment), rule);
    compact();
  }
  return true;
}

// Runs a segment for the active candidates, in as many passes as they need. Returns false if the deadline passed.
bool Slate::run_segment(std::size_t segment, const PrefixCache& prefix, const StopRule& rule, const Deadline& deadline,
                        SlateStats& stats) {
  const Segment& graph = bundle_.variant().segments[segment];
  split();
  const std::size_t passes = chunks_.size() - 1;
  if (passes > 1 && graph.first && !graph.last) hidden_.reserve(positions_.size());
  const std::size_t done = run_chunks(segment, prefix, deadline);
  if (passes == 1 && done == 1) hidden_.take_output();  // then every later segment takes one pass, too
  read_chunks(segment, chunks_[done], rule);
  stats.candidate_layers += graph.layers() * chunks_[done];
  return done == passes;
}

// Divides the active candidates into passes. A candidate that exceeds the limit alone gets its own pass.
void Slate::split() {
  chunks_.assign(1, 0);
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < active_.size(); ++i) {
    tokens += active_[i].tokens;
    if (i == chunks_.back() || tokens <= bundle_.variant().max_tokens) continue;
    chunks_.push_back(i);
    tokens = active_[i].tokens;
  }
  chunks_.push_back(active_.size());
}

// Returns how many passes have run: all, or those that began before the deadline. Side by side, if that keeps the threads busy;
// else one by one, each in all threads. Not behind a prefix: after its pass the pool's threads spin for a while beside them.
std::size_t Slate::run_chunks(std::size_t segment, const PrefixCache& prefix, const Deadline& deadline) {
  constexpr std::size_t passes_per_lane = 4;
  const std::size_t passes = chunks_.size() - 1, threads = backend_.concurrency();
  const bool alone = prefix.tokens() != 0 || passes < passes_per_lane * threads;
  const std::size_t lanes = alone ? 1 : threads;
  rows_.resize(active_.size());
  logits_.resize(2 * active_.size());
  hidden_.set_lanes(lanes);
  std::atomic<std::size_t> next{0};
  run_in_threads(lanes, [&](std::size_t lane) {
    while (!deadline.expired()) {
      const std::size_t chunk = next++;
      if (chunk >= passes) return;
      try {
        run_chunk(segment, chunk, prefix, lanes, lane);
      } catch (...) {
        next = passes;
        throw;
      }
    }
  });
  return std::min(next.load(), passes);
}

// Applies the exit rule to active candidates [0, end), whose logits are in logits_.
void Slate::read_chunks(std::size_t segment, std::size_t end, const StopRule& rule) {
  const std::size_t exit = bundle_.exit_of(segment);
  for (std::size_t i = 0; i < end; ++i) {
    const Candidate& candidate = active_[i];
    const std::size_t equal = equal_.first(candidate.index);
    const bool is_repeated = equal != candidate.index && answers_[equal].exit == exit;
    apply_exit_rule(candidate, exit, is_repeated ? answers_[equal].log_odds : log_odds(candidate, segment, &logits_[2 * i]),
                    rule);
  }
}

// `begin` and `end`: places in entering_.
void Slate::pack(const Prompt& prompt, std::size_t begin, std::size_t end) {
  const std::size_t prefix_tokens = prompt.prefix_tokens();
  active_.clear();
  std::size_t total = 0;
  for (std::size_t n = begin; n < end; ++n) total += prompt.candidate_tokens(entering_[n]);
  token_ids_.resize(total);
  positions_.resize(total);
  groups_.resize(total);
  std::size_t first = 0;
  for (std::size_t n = begin; n < end; ++n) {
    const std::uint32_t i = entering_[n];
    const std::int32_t* tokens = prompt.candidate(i);
    const Candidate candidate{i, first, prompt.candidate_tokens(i)};
    for (std::size_t t = 0; t < candidate.tokens; ++t) {
      token_ids_[first + t] = tokens[t];
      positions_[first + t] = static_cast<std::int64_t>(prefix_tokens + t);
      groups_[first + t] = static_cast<std::int64_t>(i);
    }
    first += candidate.tokens;
    active_.push_back(candidate);
  }
}

// Returns false if the deadline passed before the prefix was deep enough.
bool Slate::deepen(PrefixCache& prefix, std::size_t segment, const Deadline& deadline, SlateStats& stats) const {
  const Timer timer(stats.prefix_us);
  while (!prefix.ready(segment)) {
    if (deadline.expired()) return false;
    stats.prefix_layers += prefix.deepen();
  }
  return true;
}

// Fills rows_ and logits_ of the chunk's candidates. `lanes`: how many passes run at a time; `lane`: which of them this is.
void Slate::run_chunk(std::size_t segment, std::size_t chunk, const PrefixCache& prefix, std::size_t lanes, std::size_t lane) {
  const Segment& graph = bundle_.variant().segments[segment];
  const std::size_t begin = chunks_[chunk], end = chunks_[chunk + 1], first = active_[begin].begin;
  for (std::size_t i = begin; i < end; ++i)
    rows_[i] = static_cast<std::int64_t>(active_[i].begin + active_[i].tokens - 1 - first);

  Pass pass;
  pass.tokens = active_[end - 1].begin + active_[end - 1].tokens - first;
  pass.prefix = prefix.tokens();
  pass.rows = end - begin;
  if (graph.first) {
    pass.token_ids = token_ids_.data() + first;
  } else {
    pass.hidden_in = hidden_.input(first);
  }
  pass.positions = positions_.data() + first;
  pass.groups = groups_.data() + first;
  pass.row_index = &rows_[begin];
  pass.past_keys = prefix.keys(segment);
  pass.past_values = prefix.values(segment);
  if (!graph.last) pass.hidden_out = hidden_.output(pass.tokens, lane);
  pass.logits = &logits_[2 * begin];
  pass.side_by_side = lanes;
  backend_.run(segment, pass);
  if (chunks_.size() > 2 && !graph.last) hidden_.copy_output(first, pass.tokens, lane);
}

// `logits`: (no, yes).
inline float Slate::log_odds(const Candidate& candidate, std::size_t segment, const float* logits) const {
  const float z = logits[1] - logits[0];
  if (!std::isfinite(z))
    fail(REXIT_BACKEND_FAILED, bundle_.variant().segments[segment].graph, ": candidate ", candidate.index, "'s logits (",
         logits[0], ", ", logits[1], ") are not finite");
  return z;
}

// `z`: the log-odds that the policy reads.
void Slate::apply_exit_rule(const Candidate& candidate, std::size_t exit, float z, const StopRule& rule) {
  const ExitRule& exit_rule = rule.policy->exits[exit];
  float c;
  if (rule.policy->earlier.empty()) {
    c = exit_rule.calibrated(z);
  } else {
    float* log_odds = log_odds_.data() + candidate.index * bundle_.exits();
    log_odds[exit] = z;
    c = rule.policy->calibrated(exit, log_odds);
  }
  if (!std::isfinite(c) && rule.trace == nullptr)
    fail(REXIT_BACKEND_FAILED, bundle_.where_exit(exit), ": candidate ", candidate.index, "'s log-odds ", z,
         " are beyond what the policy's maps can calibrate: c is ", c);
  const bool last = exit + 1 == bundle_.exits(),
             is_confident = stops_.reach(candidate.index, exit, exit_rule, rule.policy->patience, c);
  answers_[candidate.index] = {static_cast<std::uint32_t>(exit), z, c, false};
  if (rule.trace != nullptr) rule.trace[candidate.index * bundle_.exits() + exit] = z;
  if (rule.reached != nullptr) rule.reached[candidate.index * bundle_.exits() + exit] = z;
  const bool runs_to_its_end = rule.trace != nullptr || rule.force_exit;
  stops_.set_stopped(candidate.index,
                     runs_to_its_end ? exit == rule.force_exit.value_or(bundle_.exits() - 1) : last || is_confident);
}

// Call after apply_exit_rule() for all candidates that reached this exit.
void Slate::apply_slate_rules(std::size_t exit, const StopRule& rule) {
  if (rule.trace == nullptr && !rule.force_exit && exit + 1 != bundle_.exits()) stops_.apply_slate_rules(*rule.policy, exit);
}

const std::vector<Answer>& Slate::cut_short() {
  cut_short(0);
  return answers_;
}

// `first_waiting`: this entering candidate and later ones have not started.
void Slate::cut_short(std::size_t first_waiting) {
  if (std::none_of(answers_.begin(), answers_.end(), [](const Answer& answer) { return answer.has_exit(); }))
    fail(REXIT_DEADLINE, "the deadline passed before any candidate had reached its first exit");
  for (const Candidate& candidate : active_)
    if (!stops_.stopped(candidate.index)) answers_[candidate.index].cut_short = true;
  for (std::size_t n = first_waiting; n < entering_.size(); ++n) answers_[entering_[n]].cut_short = true;
}

// Removes the tokens of stopped candidates. Nothing else changes, since a candidate attends only to the prefix and itself.
void Slate::compact() {
  std::size_t count = 0, to = 0;
  moves_.clear();
  for (const Candidate& candidate : active_) {
    if (stops_.stopped(candidate.index)) continue;
    if (to != candidate.begin) {
      if (moves_.empty() || moves_.back().from + moves_.back().count != candidate.begin)
        moves_.push_back({candidate.begin, to, 0});  // adjacent candidates move together
      moves_.back().count += candidate.tokens;
      for (std::size_t t = 0; t < candidate.tokens; ++t) {
        positions_[to + t] = positions_[candidate.begin + t];
        groups_[to + t] = groups_[candidate.begin + t];
      }
    }
    Candidate moved = candidate;
    moved.begin = to;
    to += moved.tokens;
    active_[count++] = moved;
  }
  hidden_.move(moves_);
  active_.resize(count, Candidate{});
  positions_.resize(to);
  groups_.resize(to);
}

std::size_t Slate::memory() const noexcept {
  return chunks_.capacity() * sizeof(std::size_t) + stops_.memory() + equal_.memory() + hidden_.bytes() +
         active_.capacity() * sizeof(Candidate) + answers_.capacity() * sizeof(Answer) +
         entering_.capacity() * sizeof(std::uint32_t) + moves_.capacity() * sizeof(RowMove) +
         (token_ids_.capacity() + positions_.capacity() + groups_.capacity() + rows_.capacity()) * sizeof(std::int64_t) +
         (logits_.capacity() + log_odds_.capacity()) * sizeof(float);
}

}  // namespace rexit::core

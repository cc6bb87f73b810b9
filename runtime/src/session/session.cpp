#include "session/session.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/status.hpp"
#include "session/prefix/prefix_file.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t default_cache_bytes = std::size_t{32} << 20;

// Best first; candidates without an answer come last. Ties keep the order of the request.
bool ranks_before(const Score& a, const Score& b) {
  if (a.answer.has_exit() != b.answer.has_exit()) return a.answer.has_exit();
  // By c, since probability saturates: it is 1 in float32 for both c = 20 and c = 30.
  return a.answer.has_exit() && a.answer.calibrated != b.answer.calibrated ? a.answer.calibrated > b.answer.calibrated
                                                                           : a.item < b.item;
}

// Fills `scores` with the answers, or the request's top_k of them.
void rank(const Request& request, const std::vector<Answer>& answers, std::vector<Score>& scores) {
  scores.clear();
  for (std::size_t i = 0; i < answers.size(); ++i) scores.push_back({i, answers[i]});
  if (request.top_k == 0) return;
  const std::size_t count = std::min(request.top_k, scores.size());
  std::partial_sort(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(count), scores.end(), ranks_before);
  scores.resize(count);
}

void add_slate(const SlateStats& slate, rexit_stats& stats) {
  stats.candidate_layers = slate.candidate_layers;
  stats.prefix_layers = slate.prefix_layers;
  stats.prefix_us += slate.prefix_us;
  stats.slate_us = slate.slate_us;
}

std::exception_ptr late() {
  try {
    fail_late();
  } catch (...) {
    return std::current_exception();
  }
}

// The longest prefix, with as many of the longest candidates as fit into a pass.
struct LargestPass {
  explicit LargestPass(const Bundle& bundle) {
    const Program& program = bundle.program();
    const std::size_t max_positions = bundle.variant().max_positions;
    prefix_tokens = std::min(program.max_prefix_tokens, max_positions - 1);
    candidate_tokens = std::clamp<std::size_t>(program.max_candidate_tokens, 1, max_positions - prefix_tokens);
    candidates = std::max<std::size_t>(1, bundle.variant().max_tokens / candidate_tokens);
    vectors = std::max(std::min(program.max_prefix_vectors, prefix_tokens),
                       candidates * std::min(program.max_candidate_vectors, candidate_tokens));
  }
  std::size_t slate_tokens() const noexcept { return candidates * candidate_tokens; }

  std::size_t prefix_tokens, candidate_tokens, candidates;
  std::size_t vectors;  // the maximum over prefix and slate
};

constexpr std::pair<const char*, std::size_t Model::*> model_fields[] = {
    {"layers", &Model::layers},     {"hidden_size", &Model::hidden_size}, {"kv_heads", &Model::kv_heads},
    {"head_dim", &Model::head_dim}, {"vocab_size", &Model::vocab_size},   {"max_positions", &Model::max_positions}};
static_assert(sizeof(Model) == std::size(model_fields) * sizeof(std::size_t));

// The segments that `opened` has loaded. Throws unless `now` describes the same: a backend writes as many bytes as the
// description said when the backend was created. The digests cover variant.json, which describes every segment.
const BackendFactory& reusable_segments(const LoadedBundle& opened, const Bundle& now) {
  const std::string &digest = now.variant().sha256, &loaded_digest = opened.bundle.variant().sha256;
  if (digest != loaded_digest)
    fail(REXIT_MISMATCH, now.where(now.variant().folder), ": its variant.json is ", digest.substr(0, 12),
         "…, the loaded one was ", loaded_digest.substr(0, 12), "…: the segments have changed, open the bundle again");
  for (const auto& [name, field] : model_fields)
    if (now.model().*field != opened.bundle.model().*field)
      fail(REXIT_MISMATCH, now.name(), "/manifest.json model ", name, ": is ", now.model().*field, ", loaded was ",
           opened.bundle.model().*field, ": the segments have changed, open the bundle again");
  // The id of the first vector is a constant in the first graph.
  const Program &program = now.program(), &loaded = opened.bundle.program();
  if (program.has_vectors() && program.first_vector != loaded.first_vector)
    fail(REXIT_MISMATCH, now.name(), ": the tokenizer has ", program.first_vector, " tokens, the loaded one had ",
         loaded.first_vector, ": the segments have changed, open the bundle again");
  return opened.make_backend;
}

}  // namespace

LoadedBundle::LoadedBundle(const LoadedBundle& opened)
    : bundle(opened.bundle.current_source(), opened.bundle.variant().name.c_str()),
      make_backend(reusable_segments(opened, bundle)),
      start(opened.start->tokens() == PinnedStart::tokens_of(bundle) ? opened.start : make_start()) {}

std::shared_ptr<const PinnedStart> LoadedBundle::make_start() const {
  return std::make_shared<const PinnedStart>(bundle, make_backend);
}

void LoadedBundle::warn_of_long_slate(std::size_t items) const {
  const std::size_t slate = bundle.calibrated_on().slate;
  if (slate == 0 || items <= slate || warned_of_long_slate_.test_and_set(std::memory_order_relaxed)) return;
  const std::string count = std::to_string(items);
  log(REXIT_LOG_WARNING, bundle.where_variant("policy.json") + ": calibrated on slates of up to " + std::to_string(slate) +
                             " candidates, a request has " + count +
                             ": what was certified does not hold for it; run `rexit calibrate --slate " + count + "`");
}

void LoadedBundle::warn_of_other_weights(const std::vector<float>& weights) const {
  const std::vector<float>& declared = bundle.policy().weights;
  if (!bundle.calibrated() || are_proportional(declared, weights) ||
      warned_of_other_weights_.test_and_set(std::memory_order_relaxed))
    return;
  log(REXIT_LOG_WARNING, bundle.where_variant("policy.json") + ": calibrated for another utility than a request's weights: " +
                             "what was certified does not hold for it; run `rexit calibrate --utility` with these weights");
}

Session::State::State(const LoadedBundle& loaded, const Backend& backend, std::size_t cache_bytes, std::size_t slate_bytes)
    : retrieval(loaded.bundle.has_catalog() ? std::make_unique<Retrieval>(loaded.bundle.catalog()) : nullptr),
      vectors(loaded.bundle),
      prefix(loaded.bundle, backend, vectors, cache_bytes != 0 ? cache_bytes : default_cache_bytes, loaded.start.get()),
      slate(loaded.bundle, backend, vectors, slate_bytes) {}

Session::Session(std::shared_ptr<const LoadedBundle> loaded, std::size_t cache_bytes, std::size_t slate_bytes,
                 const AuditOptions& audit)
    : loaded_(std::move(loaded)),
      backend_(loaded_->make_backend(), loaded_->bundle.exits()),
      cache_bytes_(cache_bytes),
      slate_bytes_(slate_bytes),
      counters_(loaded_->bundle.exits()),
      audits_(audit),
      state_(std::make_unique<State>(*loaded_, backend_, cache_bytes_, slate_bytes_)) {
  update_memory();
}

void Session::assemble(const Request& request, const Deadline& deadline, Prompt& prompt, rexit_stats& stats) {
  const Timer timer(stats.retrieval_us);
  const Bundle& bundle = loaded_->bundle;
  stats.known_user = request.is_of_known_user() ? 1 : 0;
  if (request.tokens) return core::assemble(bundle, *request.tokens, deadline, prompt);
  bundle.check_unchanged();
  core::assemble(bundle, request.query, deadline, *state_->retrieval, prompt);
}

StopRule Session::rule_of(const Request& request) {
  return {request.has_policy ? &request.policy : &loaded_->bundle.policy(),
          request.force_exit,
          request.top_k,
          request.force_exit ? nullptr : &counters_,
          nullptr,
          request.weights.empty() ? nullptr : &request.weights};
}

void Session::warn_of_conditions(const Request& request, const Prompt& prompt) const {
  if (request.has_policy || request.force_exit) return;
  loaded_->warn_of_long_slate(prompt.candidates());
  if (!request.weights.empty()) loaded_->warn_of_other_weights(request.weights);
}

void Session::count_answers(const std::vector<Answer>& answers, const StopRule& rule) {
  if (rule.counters == nullptr) return;
  for (const Answer& answer : answers)
    if (answer.has_exit()) counters_.count_answer(answer.exit, answer.cut_short);
}

rexit_draw Session::draw(const Request& request, const Prompt& prompt, const std::vector<Answer>& answers) noexcept {
  if (!audits_.enabled() || request.force_exit || !(request.has_policy || loaded_->bundle.calibrated())) return REXIT_NOT_DRAWN;
  const std::vector<float>& declared = loaded_->bundle.policy().weights;
  return audits_.draw(prompt, answers, request.weights, !request.weights.empty() && !are_proportional(declared, request.weights));
}

const std::vector<Score>& Session::score(const Request& request, Clock::time_point start, rexit_stats& stats) {
  const MemoryUpdate memory_update(*this);
  const Deadline deadline(start, request.deadline_us, &backend_.cancelled());
  backend_.reset_segments();
  assemble(request, deadline, state_->prompt, stats);
  stats.retrieval_us = microseconds_since(start);
  score(request, state_->prompt, deadline, state_->scores, stats);
  stats.total_us = microseconds_since(start);
  return state_->scores;
}

void Session::score(const Request& request, const Prompt& prompt, const Deadline& deadline, std::vector<Score>& scores,
                    rexit_stats& stats) {
  warn_of_conditions(request, prompt);
  const StopRule rule = rule_of(request);
  counters_.begin();
  const std::vector<Answer>& answers = run(prompt, rule, deadline, stats);
  count_answers(answers, rule);
  counters_.commit();
  rank(request, answers, scores);
  stats.draw = draw(request, prompt, answers);
}

void Session::score_many(const std::vector<Request>& requests, std::size_t count, Clock::time_point start,
                         std::vector<Outcome>& outcomes) {
  const MemoryUpdate memory_update(*this);
  State& state = *state_;
  backend_.reset_segments();
  state.prompts.resize(std::max(state.prompts.size(), count));
  state.deadlines.clear();
  std::vector<std::size_t> pack;  // requests that run together
  const auto attempt = [&](std::size_t i, const auto& work) {
    try {
      work(requests[i], state.prompts[i], state.deadlines[i], outcomes[i]);
      outcomes[i].stats.total_us = microseconds_since(start);
    } catch (...) {
      outcomes[i].error = std::current_exception();
    }
  };
  const auto score_pack = [&] {
    bool shared = pack.size() > 1;
    try {
      if (shared) score_together(requests, pack, outcomes);
    } catch (...) {  // of which request, is unknown
      shared = false;
    }
    for (std::size_t n = 0; n < pack.size(); ++n) {
      const std::size_t i = pack[n];
      if (shared) {
        if (!outcomes[i].error) outcomes[i].stats.draw = draw(requests[i], state.prompts[i], state.tasks[n].answers);
        outcomes[i].stats.total_us = microseconds_since(start);
      } else {
        attempt(i, [&](const Request& request, const Prompt& prompt, const Deadline& deadline, Outcome& outcome) {
          score(request, prompt, deadline, outcome.scores, outcome.stats);
          set_probabilities(outcome, state.slate.probabilities());
        });
      }
    }
    pack.clear();
  };
  for (std::size_t i = 0; i < count; ++i) {
    state.deadlines.emplace_back(start, requests[i].deadline_us, &backend_.cancelled());
    if (outcomes[i].error) continue;
    attempt(i, [&](const Request& request, Prompt& prompt, const Deadline& deadline, Outcome& outcome) {
      assemble(request, deadline, prompt, outcome.stats);
    });
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (outcomes[i].error) continue;
    if (!fit_together(pack, i)) score_pack();
    pack.push_back(i);
  }
  score_pack();
}

// In the order of the outcome's scores. `probabilities`: in the order of the candidates.
void Session::set_probabilities(Outcome& outcome, const std::vector<float>& probabilities) const {
  const std::size_t objectives = loaded_->bundle.objectives();
  outcome.probabilities.clear();
  if (objectives == 1) return;
  for (const Score& score : outcome.scores) {
    const auto first = probabilities.begin() + static_cast<std::ptrdiff_t>(score.item * objectives);
    outcome.probabilities.insert(outcome.probabilities.end(), first, first + static_cast<std::ptrdiff_t>(objectives));
  }
}

// Whether request `next` can run in a pass with `requests`.
bool Session::fit_together(const std::vector<std::size_t>& requests, std::size_t next) const {
  std::vector<std::size_t> prefixes;
  std::size_t tokens = 0;
  const auto add = [&](std::size_t i) {
    const Prompt& prompt = state_->prompts[i];
    prefixes.push_back(prompt.prefix_tokens());
    tokens += prompt.tokens.size() - prompt.prefix_tokens();
    return state_->slate.may_run_together(prompt);
  };
  return std::all_of(requests.begin(), requests.end(), add) && add(next) && tokens <= loaded_->bundle.variant().max_tokens &&
         state_->prefix.fit_together(prefixes);
}

// Scores requests in shared passes. Throws if one of them fails in a way that may affect the others.
void Session::score_together(const std::vector<Request>& requests, const std::vector<std::size_t>& indices,
                             std::vector<Outcome>& outcomes) {
  State& state = *state_;
  state.tasks.resize(indices.size());
  state.slates.assign(indices.size(), SlateStats{});
  for (std::size_t n = 0; n < indices.size(); ++n) {
    const std::size_t i = indices[n];
    const Prompt& prompt = state.prompts[i];
    warn_of_conditions(requests[i], prompt);
    SlateTask& task = state.tasks[n];
    task.prompt = &prompt;
    task.rule = rule_of(requests[i]);
    task.deadline = &state.deadlines[i];
    task.stats = &state.slates[n];
    rexit_stats& stats = outcomes[i].stats;
    stats.prefix_tokens = prompt.prefix_tokens();
    stats.candidate_tokens = prompt.tokens.size() - prompt.prefix_tokens();
  }
  counters_.begin();
  state.slate.run_together(state.tasks, state.prefix);
  for (std::size_t n = 0; n < indices.size(); ++n) {
    const std::size_t i = indices[n];
    const SlateTask& task = state.tasks[n];
    Outcome& outcome = outcomes[i];
    add_slate(state.slates[n], outcome.stats);
    outcome.stats.prefix_tokens_reused = state.slates[n].prefix_tokens_reused;
    count_answers(task.answers, task.rule);
    rank(requests[i], task.answers, outcome.scores);
    set_probabilities(outcome, task.probabilities);
    if (!task.has_answer()) outcome.error = late();
  }
  counters_.commit();
}

const std::vector<float>& Session::trace(const Request& request, Clock::time_point start, rexit_stats& stats) {
  const MemoryUpdate memory_update(*this);
  const Deadline no_deadline(start, 0, &backend_.cancelled());
  backend_.reset_segments();
  assemble(request, no_deadline, state_->prompt, stats);
  stats.retrieval_us = microseconds_since(start);
  state_->log_odds.resize(state_->prompt.candidates() * loaded_->bundle.exits() * loaded_->bundle.objectives());
  run(state_->prompt, {&loaded_->bundle.policy(), std::nullopt, 0, nullptr, state_->log_odds.data()}, no_deadline, stats);
  stats.total_us = microseconds_since(start);
  return state_->log_odds;
}

const AuditedSlate* Session::audit() {
  const AuditedSlate* slate = audits_.waiting();
  if (slate == nullptr) return nullptr;
  const MemoryUpdate memory_update(*this);
  backend_.reset_segments();
  const Bundle& bundle = loaded_->bundle;
  rexit_stats ignored{};
  try {
    bundle.check_unchanged();
    const std::vector<float>* weights = slate->weights.empty() ? nullptr : &slate->weights;
    const StopRule full_depth{&bundle.policy(), bundle.exits() - 1, 0, nullptr, nullptr, weights};
    return &audits_.finish(run(slate->prompt, full_depth, Deadline({}, 0, &backend_.cancelled()), ignored));
  } catch (const Error& error) {
    if (error.status() != REXIT_CANCELLED) audits_.skip();
    throw;
  } catch (...) {
    audits_.skip();
    throw;
  }
}

const Prompt& Session::prompt(const Request& request) {
  const MemoryUpdate memory_update(*this);
  rexit_stats ignored{};
  assemble(request, Deadline({}, 0, &backend_.cancelled()), state_->prompt, ignored);
  return state_->prompt;
}

void Session::warm_up() {
  const MemoryUpdate memory_update(*this);
  begin_call();
  backend_.reset_segments();
  const Bundle& bundle = loaded_->bundle;
  const LargestPass largest(bundle);
  Prompt& prompt = state_->prompt;
  prompt.tokens.assign(largest.prefix_tokens + largest.slate_tokens(), 0);
  prompt.offsets.assign({0, largest.prefix_tokens});
  for (std::size_t i = 0; i < largest.candidates; ++i) prompt.offsets.push_back(prompt.offsets.back() + largest.candidate_tokens);

  state_->vectors.reserve(largest.vectors);
  rexit_stats ignored{};
  clear_cache();
  run(prompt, {&bundle.policy(), bundle.exits() - 1}, Deadline({}, 0), ignored);
  clear_cache();
}

const std::vector<Answer>& Session::run(const Prompt& prompt, const StopRule& rule, const Deadline& deadline,
                                        rexit_stats& stats) {
  const std::size_t prefix_tokens = prompt.prefix_tokens();
  state_->vectors.begin(prompt);
  stats.prefix_tokens = prefix_tokens;
  {
    const Timer timer(stats.prefix_us);
    stats.prefix_tokens_reused = state_->prefix.set_current(prompt.tokens.data(), prefix_tokens);
  }
  stats.candidate_tokens = prompt.tokens.size() - prefix_tokens;
  SlateStats slate;
  const std::vector<Answer>& answers = state_->slate.run(prompt, state_->prefix, rule, deadline, slate);
  add_slate(slate, stats);
  return answers;
}

void Session::save_cache(const char* path) const { save_prefixes(path, loaded_->bundle, state_->prefix); }

void Session::load_cache(const char* path) {
  const MemoryUpdate memory_update(*this);
  load_prefixes(path, loaded_->bundle, state_->prefix);
}

void Session::clear_cache() noexcept {
  state_->prefix.clear();
  update_memory();
}

void Session::trim() {
  const MemoryUpdate memory_update(*this);
  state_ = std::make_unique<State>(*loaded_, backend_, cache_bytes_, slate_bytes_);
  audits_.trim();
  backend_.trim();
}

void Session::update_memory() noexcept {
  const State& s = *state_;
  const std::size_t prefixes = s.prefix.prefix_bytes();
  prefixes_ = prefixes;
  std::size_t buffers = s.prefix.memory() - prefixes + s.slate.memory() + (s.retrieval != nullptr ? s.retrieval->memory() : 0) +
                        s.vectors.memory() + s.prompt.memory() + s.scores.capacity() * sizeof(Score) +
                        s.log_odds.capacity() * sizeof(float) + s.prompts.capacity() * sizeof(Prompt) +
                        s.deadlines.capacity() * sizeof(Deadline) + s.tasks.capacity() * sizeof(SlateTask) +
                        s.slates.capacity() * sizeof(SlateStats) + audits_.memory();
  for (const Prompt& prompt : s.prompts) buffers += prompt.memory();
  for (const SlateTask& task : s.tasks) buffers += task.memory();
  buffers_ = buffers;
}

Memory Session::memory() const { return {prefixes_, buffers_, loaded_->start->bytes(), backend_.memory()}; }

std::size_t session_bytes(const Bundle& bundle) {
  const LargestPass largest(bundle);
  const Model& model = bundle.model();
  std::size_t cache = 0;  // bytes per token
  for (const Segment& segment : bundle.variant().segments)
    cache += 2 * segment.layers() * model.kv_heads * segment.cache_width(model) * bytes_of(segment.cache_dtype);
  // Hidden states count twice, before and after a segment. A token also has an id, a position and a group; in a slate, also a
  // row.
  const std::size_t hidden = 2 * model.hidden_size * bytes_of(bundle.variant().segments.front().hidden_dtype);
  const std::size_t vectors = bundle.vectors() == nullptr ? 0 : std::max<std::size_t>(1, largest.vectors) * model.hidden_size;
  return vectors * sizeof(float) + largest.prefix_tokens * (cache + hidden + 3 * sizeof(std::int64_t)) +
         largest.slate_tokens() * (hidden + 4 * sizeof(std::int64_t));
}

}  // namespace rexit::core

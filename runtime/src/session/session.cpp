#include "session/session.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/status.hpp"
#include "session/prefix_file.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t default_cache_bytes = std::size_t{32} << 20;

// Best first; candidates without an answer come last. Ties keep the order of the request.
bool before(const Score& a, const Score& b) {
  if (a.answer.given() != b.answer.given()) return a.answer.given();
  // By c, not by probability, which saturates: for c = 20 and c = 30 it is 1 in float32.
  return a.answer.given() && a.answer.calibrated != b.answer.calibrated ? a.answer.calibrated > b.answer.calibrated
                                                                        : a.item < b.item;
}

// The longest prefix, and as many of the longest candidates as fit in one pass.
struct LargestPass {
  explicit LargestPass(const Bundle& bundle) {
    const Program& program = bundle.catalog().program;
    const std::size_t most = bundle.variant().max_positions;
    prefix = std::min(program.max_prefix_tokens, most - 1);
    each = std::clamp<std::size_t>(program.max_candidate_tokens, 1, most - prefix);
    candidates = std::max<std::size_t>(1, bundle.variant().max_tokens / each);
    vectors = std::max(std::min(program.max_prefix_vectors, prefix), candidates * std::min(program.max_candidate_vectors, each));
  }

  std::size_t prefix, each, candidates;
  std::size_t vectors;  // of the prefix or of the candidates, whichever has more
};

constexpr std::pair<const char*, std::size_t Model::*> model_fields[] = {
    {"layers", &Model::layers},     {"hidden_size", &Model::hidden_size}, {"kv_heads", &Model::kv_heads},
    {"head_dim", &Model::head_dim}, {"vocab_size", &Model::vocab_size},   {"max_positions", &Model::max_positions}};
static_assert(sizeof(Model) == std::size(model_fields) * sizeof(std::size_t));

// What `opened` has loaded, if it is what `now` describes: a backend writes as much as the files said that it was made from. The
// digests are those of the two variant.json themselves, so every segment's description is the same.
const BackendFactory& segments_of(const LoadedBundle& opened, const Bundle& now) {
  const std::string &seen = now.variant().sha256, &expected = opened.bundle.variant().sha256;
  if (seen != expected)
    fail(REXIT_MISMATCH, now.variant().folder, ": its variant.json is ", seen.substr(0, 12), "…, loaded was ",
         expected.substr(0, 12), "…: the segments are others, open the bundle again");
  for (const auto& [name, field] : model_fields)
    if (now.model().*field != opened.bundle.model().*field)
      fail(REXIT_MISMATCH, now.path(), "/manifest.json model ", name, ": is ", now.model().*field, ", loaded was ",
           opened.bundle.model().*field, ": the segments are others, open the bundle again");
  // Where tokens end and vectors begin is a constant in the first graph.
  const Program &program = now.catalog().program, &loaded = opened.bundle.catalog().program;
  if (program.has_vectors() && program.first_vector != loaded.first_vector)
    fail(REXIT_MISMATCH, now.path(), ": the tokenizer has ", program.first_vector, " tokens, loaded was one of ",
         loaded.first_vector, ": the segments are others, open the bundle again");
  return opened.make_backend;
}

}  // namespace

LoadedBundle::LoadedBundle(const LoadedBundle& opened)
    : bundle(opened.bundle.path(), opened.bundle.variant().name.c_str()),
      make_backend(segments_of(opened, bundle)),
      start(opened.start->tokens() == PinnedStart::tokens_of(bundle) ? opened.start : make_start()) {}

std::shared_ptr<const PinnedStart> LoadedBundle::make_start() const {
  return std::make_shared<const PinnedStart>(bundle, make_backend);
}

void LoadedBundle::warn_of_long_slate(std::size_t items) const {
  const std::size_t slate = bundle.made_on().slate;
  if (slate == 0 || items <= slate || warned_of_long_slate_.test_and_set(std::memory_order_relaxed)) return;
  const std::string count = std::to_string(items);
  log(REXIT_LOG_WARNING, bundle.variant().folder + "/policy.json: calibrated on slates of up to " + std::to_string(slate) +
                             " candidates, a request has " + count +
                             ": what was certified does not hold for it; run `rexit calibrate --slate " + count + "`");
}

Session::State::State(const LoadedBundle& loaded, const Backend& backend, std::size_t cache_bytes, std::size_t slate_bytes)
    : retrieval(loaded.bundle.catalog()),
      vectors(loaded.bundle),
      prefix(loaded.bundle, backend, vectors, cache_bytes != 0 ? cache_bytes : default_cache_bytes, loaded.start.get()),
      slate(loaded.bundle, backend, vectors, slate_bytes) {}

Session::Session(std::shared_ptr<const LoadedBundle> loaded, std::size_t cache_bytes, std::size_t slate_bytes)
    : loaded_(std::move(loaded)),
      backend_(loaded_->make_backend(), loaded_->bundle.exits()),
      cache_bytes_(cache_bytes),
      slate_bytes_(slate_bytes),
      counters_(loaded_->bundle.exits()),
      state_(std::make_unique<State>(*loaded_, backend_, cache_bytes_, slate_bytes_)) {
  measure();
}

void Session::assemble(const Request& request, const Deadline& deadline) {
  const Bundle& bundle = loaded_->bundle;
  bundle.check_unchanged();
  core::assemble(bundle, request.query, deadline, state_->retrieval, state_->prompt);
}

const std::vector<Score>& Session::score(const Request& request, Clock::time_point start, rexit_stats& stats) {
  const Measured measured(*this);
  const Deadline deadline(start, request.deadline_us, &backend_.cancelled());
  assemble(request, deadline);
  stats.retrieval_us = microseconds_since(start);
  stats.known_user = request.query.user ? 1 : 0;
  if (!request.has_policy && !request.force_exit) loaded_->warn_of_long_slate(request.query.items.size());
  const StopRule rule{request.has_policy ? &request.policy : &loaded_->bundle.policy(), request.force_exit, request.top_k,
                      request.force_exit ? nullptr : &counters_};
  counters_.begin();
  const std::vector<Answer>& answers = run(rule, deadline, stats);
  if (rule.counters != nullptr) {
    for (const Answer& answer : answers)
      if (answer.given()) counters_.answered(answer.exit, answer.cut_short);
    counters_.commit();
  }

  std::vector<Score>& scores = state_->scores;
  scores.clear();
  for (std::size_t i = 0; i < answers.size(); ++i) scores.push_back({i, answers[i]});
  if (request.top_k != 0) {
    const std::size_t count = std::min(request.top_k, scores.size());
    std::partial_sort(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(count), scores.end(), before);
    scores.resize(count);
  }
  stats.total_us = microseconds_since(start);
  return scores;
}

const std::vector<float>& Session::trace(const Request& request, Clock::time_point start, rexit_stats& stats) {
  const Measured measured(*this);
  const Deadline none(start, 0, &backend_.cancelled());
  assemble(request, none);
  stats.retrieval_us = microseconds_since(start);
  stats.known_user = request.query.user ? 1 : 0;
  state_->log_odds.resize(request.query.items.size() * loaded_->bundle.exits());
  run({&loaded_->bundle.policy(), std::nullopt, 0, nullptr, state_->log_odds.data()}, none, stats);
  stats.total_us = microseconds_since(start);
  return state_->log_odds;
}

const Prompt& Session::prompt(const Request& request) {
  const Measured measured(*this);
  assemble(request, Deadline({}, 0, &backend_.cancelled()));
  return state_->prompt;
}

void Session::warm_up() {
  const Measured measured(*this);
  begin_call();
  const Bundle& bundle = loaded_->bundle;
  const LargestPass largest(bundle);
  Prompt& prompt = state_->prompt;
  prompt.tokens.assign(largest.prefix + largest.candidates * largest.each, 0);
  prompt.offsets.assign({0, largest.prefix});
  for (std::size_t i = 0; i < largest.candidates; ++i) prompt.offsets.push_back(prompt.offsets.back() + largest.each);

  state_->vectors.reserve(largest.vectors);
  rexit_stats ignored{};
  clear_cache();
  run({&bundle.policy(), bundle.exits() - 1}, Deadline({}, 0), ignored);
  clear_cache();
}

const std::vector<Answer>& Session::run(const StopRule& rule, const Deadline& deadline, rexit_stats& stats) {
  const Prompt& prompt = state_->prompt;
  const std::size_t before = prompt.prefix_tokens();

  backend_.forget_segments();
  state_->vectors.begin(prompt);
  stats.prefix_tokens = before;
  {
    const Timer timer(stats.prefix_us);
    stats.prefix_tokens_reused = state_->prefix.use(prompt.tokens.data(), before);
  }
  stats.candidate_tokens = prompt.tokens.size() - before;
  SlateStats slate;
  const std::vector<Answer>& answers = state_->slate.run(prompt, state_->prefix, rule, deadline, slate);
  stats.candidate_layers = slate.candidate_layers;
  stats.prefix_layers = slate.prefix_layers;
  stats.prefix_us += slate.prefix_us;
  stats.slate_us = slate.slate_us;
  return answers;
}

void Session::save_cache(const char* path) const { save_prefixes(path, loaded_->bundle, state_->prefix); }

void Session::load_cache(const char* path) {
  const Measured measured(*this);
  load_prefixes(path, loaded_->bundle, state_->prefix);
}

void Session::clear_cache() noexcept {
  state_->prefix.clear();
  measure();
}

void Session::trim() {
  const Measured measured(*this);
  state_ = std::make_unique<State>(*loaded_, backend_, cache_bytes_, slate_bytes_);
  backend_.trim();
}

void Session::measure() noexcept {
  const State& s = *state_;
  const std::size_t prefixes = s.prefix.prefixes();
  prefixes_ = prefixes;
  buffers_ = s.prefix.memory() - prefixes + s.slate.memory() + s.retrieval.memory() + s.vectors.memory() +
             s.prompt.tokens.capacity() * sizeof(std::int32_t) + s.prompt.user_vector.capacity() * sizeof(float) +
             s.prompt.offsets.capacity() * sizeof(std::size_t) + s.scores.capacity() * sizeof(Score) +
             s.log_odds.capacity() * sizeof(float);
}

Memory Session::memory() const { return {prefixes_, buffers_, loaded_->start->bytes(), backend_.memory()}; }

std::size_t session_bytes(const Bundle& bundle) {
  const LargestPass largest(bundle);
  const Model& model = bundle.model();
  const std::size_t tokens = largest.candidates * largest.each;
  std::size_t cache = 0;  // bytes per token
  for (const Segment& segment : bundle.variant().segments)
    cache += 2 * segment.layers() * model.kv_heads * segment.cache_width(model) * bytes_of(segment.cache_dtype);
  // Hidden states count twice, before and after a segment. Besides, per token: id, position and group; for a slate also rows.
  const std::size_t hidden = 2 * model.hidden_size * bytes_of(bundle.variant().segments.front().hidden_dtype);
  const std::size_t vectors = bundle.vectors() == nullptr ? 0 : std::max<std::size_t>(1, largest.vectors) * model.hidden_size;
  return vectors * sizeof(float) + largest.prefix * (cache + hidden + 3 * sizeof(std::int64_t)) +
         tokens * (hidden + 4 * sizeof(std::int64_t));
}

}  // namespace rexit::core

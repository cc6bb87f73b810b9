#include "session/session.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "base/status.hpp"

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

// Fills `scores` with all answers in the request's order, or best first with those from the floor on, or the request's top_k of
// them. The floor says nothing of what a deadline cut short: that stays.
void rank(const Request& request, const std::vector<Answer>& answers, float floor, std::vector<Score>& scores) {
  scores.clear();
  for (std::size_t i = 0; i < answers.size(); ++i)
    if (answers[i].cut_short || !(answers[i].calibrated < floor)) scores.push_back({i, answers[i]});
  if (request.top_k == 0 && !request.floor) return;
  const std::size_t count = request.top_k == 0 ? scores.size() : std::min(request.top_k, scores.size());
  std::partial_sort(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(count), scores.end(), ranks_before);
  scores.resize(count);
}

// What exit zero reads of a request by token ids: [candidates, numbers].
void score_numbers(const Request& request, const std::vector<Number>& numbers, std::vector<float>& out) {
  out.clear();
  for (std::size_t i = 0; i < request.candidates(); ++i)
    for (const Number& number : numbers) out.push_back(request.scores[number.column][i]);
}

// The longest prefix, with as many of the longest candidates as fit into a pass.
struct LargestPass {
  explicit LargestPass(const Bundle& bundle) {
    const Program& program = bundle.program();
    const std::size_t max_positions = bundle.variant().max_positions;
    prefix_tokens = std::min(program.max_prefix_tokens, max_positions - 1);
    candidate_tokens = std::clamp<std::size_t>(program.max_candidate_tokens, 1, max_positions - prefix_tokens);
    candidates = std::max<std::size_t>(1, bundle.variant().max_tokens / candidate_tokens);
  }
  std::size_t slate_tokens() const noexcept { return candidates * candidate_tokens; }

  std::size_t prefix_tokens, candidate_tokens, candidates;
};

constexpr std::pair<const char*, std::size_t Model::*> model_fields[] = {
    {"layers", &Model::layers},     {"hidden_size", &Model::hidden_size}, {"kv_heads", &Model::kv_heads},
    {"head_dim", &Model::head_dim}, {"vocab_size", &Model::vocab_size},   {"max_positions", &Model::max_positions},
    {"causal", &Model::causal}};
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
      fail(REXIT_MISMATCH, now.path(), "/manifest.json model ", name, ": is ", now.model().*field, ", loaded was ",
           opened.bundle.model().*field, ": the segments have changed, open the bundle again");
  return opened.make_backend;
}

}  // namespace

void Request::clear(const Program& program) {
  id.clear();
  user.clear();
  by_tokens = has_policy = floor = false;
  query.user.reset();
  query.items.clear();
  query.retrieve = 0;
  query.recent.clear();
  query.as_of.reset();
  query.inputs.resize(program.inputs.size());
  for (Codes& codes : query.inputs) codes.clear();
  tokens.prefix.clear();
  tokens.candidates.clear();
  tokens.counts.clear();
  texts.clear();
  truncated.clear();
  scores.resize(program.scores.size());
  for (std::vector<float>& stage : scores) stage.clear();
  force_exit.reset();
  deadline_us = 0;
  top_k = 0;
}

std::size_t Request::memory() const noexcept {
  const auto bytes = [](const auto&... lists) { return (... + (lists.capacity() * sizeof(*lists.data()))); };
  std::size_t lists = 0;
  for (const Codes& input : query.inputs) lists += bytes(input);
  for (const std::vector<float>& stage : scores) lists += bytes(stage);
  return lists + bytes(id, user, query.items, query.recent, tokens.prefix, tokens.candidates, tokens.counts, texts.tokens,
                       texts.ends, texts.word, truncated);
}

LoadedBundle::LoadedBundle(const LoadedBundle& opened, const ZeroFactory& load_zero)
    : bundle(opened.bundle.path(), opened.bundle.variant().name.c_str()),
      make_backend(reusable_segments(opened, bundle)),
      start(opened.start->tokens() == PinnedStart::tokens_of(bundle) ? opened.start : make_start()),
      zero(bundle.has_zero() ? load_zero(bundle) : nullptr) {}

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

Session::State::State(const LoadedBundle& loaded, const Backend& backend, std::size_t cache_bytes, std::size_t slate_bytes)
    : retrieval(loaded.bundle.has_catalog() ? std::make_unique<Retrieval>(loaded.bundle.catalog()) : nullptr),
      prefix(loaded.bundle, backend, cache_bytes != 0 ? cache_bytes : default_cache_bytes, loaded.start.get()),
      slate(loaded.bundle, backend, slate_bytes) {}

Session::Session(std::shared_ptr<const LoadedBundle> loaded, std::size_t cache_bytes, std::size_t slate_bytes)
    : loaded_(std::move(loaded)),
      backend_(loaded_->make_backend(), loaded_->bundle.segments()),
      cache_bytes_(cache_bytes),
      slate_bytes_(slate_bytes),
      state_(std::make_unique<State>(*loaded_, backend_, cache_bytes_, slate_bytes_)) {
  update_memory();
}

// Begins the query, or copies the tokens.
void Session::begin_query(const Request& request, const Deadline& deadline) {
  state_->candidates = 0;
  state_->by_tokens = request.by_tokens;
  if (request.by_tokens) {
    core::assemble(loaded_->bundle, request.tokens, deadline, state_->prompt);
    state_->candidates = request.tokens.counts.size();
    return;
  }
  loaded_->bundle.check_unchanged();
  Retrieval& retrieval = *state_->retrieval;
  retrieval.begin(request.query, deadline);
  if (request.query.retrieve != 0 && retrieval.items().empty())
    fail(REXIT_INVALID_ARGUMENT, "retrieve is ", request.query.retrieve, ", but user ", request.user,
         retrieval.has_embedding() ? " has met every item that has an embedding"
                                   : " likes no item that has an embedding, expected one in the catalog or in recent");
  state_->candidates = retrieval.items().size();
}

// Begins the query, or copies the tokens, and computes exit zero's log-odds.
void Session::begin(const Request& request, const Deadline& deadline, rexit_stats& stats) {
  const Bundle& bundle = loaded_->bundle;
  stats.known_user = request.is_of_known_user() ? 1 : 0;
  begin_query(request, deadline);
  stats.candidates = state_->candidates;
  std::vector<float>& zero = state_->zero;
  zero.clear();
  if (!bundle.has_zero()) return;
  if (request.by_tokens)
    score_numbers(request, bundle.program().numbers, state_->numbers);
  else
    state_->retrieval->numbers(request.scores, state_->numbers);
  zero.resize(stats.candidates);
  loaded_->zero->run(state_->numbers.data(), zero.size(), zero.data());
}

void Session::begin_slate(std::size_t candidates, const std::vector<float>& zero, const StopRule& rule) {
  state_->slate.begin(candidates, loaded_->bundle.has_zero() ? zero.data() : nullptr, rule);
}

// Assembles the prompts of the candidates that exit zero did not stop. Returns false if there is nothing to run: all have
// stopped, or the deadline passed behind exit zero.
bool Session::assemble_entering(const Request& request, const Deadline& deadline) {
  const std::vector<std::uint32_t>& entering = state_->slate.entering();
  if (entering.empty()) return false;
  if (request.by_tokens) return true;
  try {
    core::assemble(loaded_->bundle, deadline, *state_->retrieval, state_->prompt, &entering);
  } catch (const Error& error) {
    if (error.status() != REXIT_DEADLINE || !loaded_->bundle.has_zero()) throw;
    return false;
  }
  return true;
}

const std::vector<Score>& Session::score(const Request& request, Clock::time_point start, rexit_stats& stats,
                                         std::vector<float>* reached) {
  const MemoryUpdate memory_update(*this);
  const Deadline deadline(start, request.deadline_us, &backend_.cancelled());
  backend_.reset_segments();
  StopRule rule{request.has_policy ? &request.policy : &loaded_->bundle.policy(), request.force_exit};
  begin(request, deadline, stats);
  if (reached != nullptr) {
    reached->assign(stats.candidates * loaded_->bundle.exits(), std::numeric_limits<float>::quiet_NaN());
    rule.reached = reached->data();
  }
  begin_slate(stats.candidates, state_->zero, rule);
  const bool runs = assemble_entering(request, deadline);
  stats.retrieval_us = microseconds_since(start);
  if (!request.has_policy && !request.force_exit) loaded_->warn_of_long_slate(stats.candidates);
  const std::vector<Answer>& answers = runs ? run(state_->prompt, rule, deadline, stats) : state_->slate.cut_short();
  stats.cut_short = static_cast<std::uint64_t>(
      std::count_if(answers.begin(), answers.end(), [](const Answer& answer) { return answer.cut_short; }));
  rank(request, answers, request.floor ? loaded_->bundle.policy().floor : no_floor, state_->scores);
  stats.total_us = microseconds_since(start);
  return state_->scores;
}

const std::vector<float>& Session::trace(const Request& request, Clock::time_point start, rexit_stats& stats) {
  const MemoryUpdate memory_update(*this);
  const Deadline no_deadline(start, 0, &backend_.cancelled());
  backend_.reset_segments();
  begin(request, no_deadline, stats);
  state_->log_odds.resize(stats.candidates * loaded_->bundle.exits());
  const StopRule rule{&loaded_->bundle.policy(), std::nullopt, state_->log_odds.data()};
  begin_slate(stats.candidates, state_->zero, rule);
  assemble_entering(request, no_deadline);
  stats.retrieval_us = microseconds_since(start);
  run(state_->prompt, rule, no_deadline, stats);
  stats.total_us = microseconds_since(start);
  return state_->log_odds;
}

const Prompt& Session::prompt(const Request& request) {
  const MemoryUpdate memory_update(*this);
  const Deadline no_deadline({}, 0, &backend_.cancelled());
  begin_query(request, no_deadline);
  if (!request.by_tokens) core::assemble(loaded_->bundle, no_deadline, *state_->retrieval, state_->prompt);
  return state_->prompt;
}

std::optional<Row> Session::item(std::size_t candidate) const noexcept {
  if (state_->by_tokens || candidate >= state_->candidates) return std::nullopt;
  return state_->retrieval->items()[candidate];
}

void Session::warm_up() {
  const MemoryUpdate memory_update(*this);
  backend_.reset_segments();
  const Bundle& bundle = loaded_->bundle;
  const LargestPass largest(bundle);
  Prompt& prompt = state_->prompt;
  prompt.tokens.assign(largest.prefix_tokens + largest.slate_tokens(), 0);
  prompt.offsets.assign({0, largest.prefix_tokens});
  for (std::size_t i = 0; i < largest.candidates; ++i) prompt.offsets.push_back(prompt.offsets.back() + largest.candidate_tokens);

  rexit_stats ignored{};
  clear_cache();
  state_->zero.assign(largest.candidates, 0);
  if (loaded_->zero != nullptr) {
    state_->numbers.assign(largest.candidates * bundle.program().numbers.size(), 0);
    loaded_->zero->run(state_->numbers.data(), largest.candidates, state_->zero.data());
    state_->zero.assign(largest.candidates, 0);  // whatever it says of such numbers
  }
  const StopRule full_depth{&bundle.policy(), bundle.exits() - 1};
  begin_slate(largest.candidates, state_->zero, full_depth);
  run(prompt, full_depth, Deadline({}, 0), ignored);
  clear_cache();
}

const std::vector<Answer>& Session::run(const Prompt& prompt, const StopRule& rule, const Deadline& deadline,
                                        rexit_stats& stats) {
  const std::size_t prefix_tokens = prompt.prefix_tokens();
  stats.prefix_tokens = prefix_tokens;
  {
    const Timer timer(stats.prefix_us);
    stats.prefix_tokens_reused = state_->prefix.set_current(prompt.tokens.data(), prefix_tokens);
  }
  SlateStats slate;
  const std::vector<Answer>& answers = state_->slate.run(prompt, state_->prefix, rule, deadline, slate);
  stats.candidate_tokens = slate.candidate_tokens;
  stats.candidate_layers = slate.candidate_layers;
  stats.prefix_layers = slate.prefix_layers;
  stats.prefix_us += slate.prefix_us;
  stats.slate_us = slate.slate_us;
  return answers;
}

void Session::clear_cache() noexcept {
  state_->prefix.clear();
  update_memory();
}

void Session::trim() {
  const MemoryUpdate memory_update(*this);
  state_ = std::make_unique<State>(*loaded_, backend_, cache_bytes_, slate_bytes_);
  backend_.trim();
}

void Session::update_memory() noexcept {
  const State& s = *state_;
  const std::size_t prefixes = s.prefix.prefix_bytes();
  prefixes_ = prefixes;
  buffers_ = s.prefix.memory() - prefixes + s.slate.memory() + (s.retrieval != nullptr ? s.retrieval->memory() : 0) +
             s.prompt.memory() + s.scores.capacity() * sizeof(Score) +
             (s.log_odds.capacity() + s.numbers.capacity() + s.zero.capacity()) * sizeof(float);
}

Memory Session::memory() const { return {prefixes_, buffers_, loaded_->start->bytes(), backend_.gpu_bytes()}; }

std::size_t session_bytes(const Bundle& bundle) {
  const LargestPass largest(bundle);
  const Model& model = bundle.model();
  std::size_t cache = 0;  // bytes per token
  for (const Segment& segment : bundle.variant().segments)
    cache += 2 * segment.layers() * model.kv_heads * model.head_dim * bytes_of(segment.cache_dtype);
  // Hidden states count twice, before and after a segment. A token also has an id, a position and a group; in a slate, also a
  // row.
  const std::size_t hidden = 2 * model.hidden_size * bytes_of(bundle.variant().segments.front().hidden_dtype);
  return largest.prefix_tokens * (cache + hidden + 3 * sizeof(std::int64_t)) +
         largest.slate_tokens() * (hidden + 4 * sizeof(std::int64_t));
}

}  // namespace rexit::core

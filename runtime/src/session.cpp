#include "session.hpp"

#include <algorithm>

namespace rexit::core {

namespace {

constexpr std::size_t default_cache_bytes = std::size_t{32} << 20;

}  // namespace

Session::Session(std::shared_ptr<const Engine> engine, std::size_t cache_bytes)
    : engine_(std::move(engine)),
      backend_(engine_->backends()),
      retrieval_(engine_->bundle.catalog()),
      prefix_(engine_->bundle, *backend_, cache_bytes != 0 ? cache_bytes : default_cache_bytes),
      slate_(engine_->bundle, *backend_) {}

const std::vector<Score>& Session::score(const Request& request, Clock::time_point start, rexit_stats& stats) {
  assemble(engine_->bundle.catalog(), request.query, engine_->bundle.variant().max_positions, retrieval_, prompt_);
  stats.retrieval_us = microseconds_since(start);
  const StopRule rule{request.has_policy ? &request.policy : &engine_->bundle.policy(), request.force_exit};
  const std::vector<Answer>& answers = run(rule, Deadline(start, request.deadline_us), stats);

  scores_.clear();
  for (std::size_t i = 0; i < answers.size(); ++i) scores_.push_back({i, answers[i]});
  if (request.top_k != 0) {
    // By c and not by probability, which saturates: 20 and 30 are both 1 in float32.
    const std::size_t count = std::min(request.top_k, scores_.size());
    std::partial_sort(
        scores_.begin(), scores_.begin() + static_cast<std::ptrdiff_t>(count), scores_.end(), [](const Score& a, const Score& b) {
          return a.answer.calibrated != b.answer.calibrated ? a.answer.calibrated > b.answer.calibrated : a.item < b.item;
        });
    scores_.resize(count);
  }
  stats.total_us = microseconds_since(start);
  return scores_;
}

const std::vector<float>& Session::trace(const Request& request, Clock::time_point start, rexit_stats& stats) {
  assemble(engine_->bundle.catalog(), request.query, engine_->bundle.variant().max_positions, retrieval_, prompt_);
  stats.retrieval_us = microseconds_since(start);
  log_odds_.resize(request.query.items.size() * engine_->bundle.exits());
  run({&engine_->bundle.policy(), std::nullopt, log_odds_.data()}, Deadline(start, 0), stats);
  stats.total_us = microseconds_since(start);
  return log_odds_;
}

const Prompt& Session::prompt(const Request& request) {
  assemble(engine_->bundle.catalog(), request.query, engine_->bundle.variant().max_positions, retrieval_, prompt_);
  return prompt_;
}

void Session::warm_up() {
  const Bundle& bundle = engine_->bundle;
  const std::size_t most = bundle.variant().max_positions;
  const std::size_t prefix = std::min(bundle.catalog().program.max_prefix_tokens, most - 1);
  const std::size_t each = std::clamp<std::size_t>(bundle.catalog().program.max_candidate_tokens, 1, most - prefix);
  const std::size_t count = std::max<std::size_t>(1, bundle.variant().max_tokens / each);
  prompt_.tokens.assign(prefix + count * each, 0);
  prompt_.offsets.assign({0, prefix});
  for (std::size_t i = 0; i < count; ++i) prompt_.offsets.push_back(prompt_.offsets.back() + each);

  rexit_stats ignored{};
  prefix_.clear();
  run({&bundle.policy(), bundle.exits() - 1}, Deadline(Clock::now(), 0), ignored);
  prefix_.clear();
}

const std::vector<Answer>& Session::run(const StopRule& rule, const Deadline& deadline, rexit_stats& stats) {
  const std::size_t before = prompt_.prefix_tokens();
  stats.prefix_tokens = before;
  stats.prefix_tokens_reused = prefix_.use(prompt_.tokens.data(), before);
  stats.candidate_tokens = prompt_.tokens.size() - before;
  SlateStats slate;
  const std::vector<Answer>& answers = slate_.run(prompt_, prefix_, rule, deadline, slate);
  stats.candidate_layers = slate.candidate_layers;
  stats.prefix_layers = slate.prefix_layers;
  stats.prefix_us = slate.prefix_us;
  stats.slate_us = slate.slate_us;
  return answers;
}

std::size_t Session::memory() const noexcept {
  return prefix_.memory() + slate_.memory() + retrieval_.memory() + prompt_.tokens.capacity() * sizeof(std::int32_t) +
         prompt_.offsets.capacity() * sizeof(std::size_t) + scores_.capacity() * sizeof(Score) +
         log_odds_.capacity() * sizeof(float);
}

}  // namespace rexit::core

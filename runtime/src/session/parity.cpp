#include "session/parity.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.hpp"
#include "bundle/catalog/tables.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {
namespace {

using Offsets = Array<std::int64_t>;

// golden.safetensors, as docs/format/variant.md has it. Every value is checked before it is used.
class GoldenSamples {
 public:
  explicit GoldenSamples(const Bundle& bundle)
      : bundle_(bundle),
        file_(bundle.source()->open(bundle.variant().golden)),
        slates_(file_.array<std::int64_t>("slate_offsets", {std::nullopt})),
        log_odds_(bundle.objectives() == 1
                      ? file_.array<float>("log_odds", {std::nullopt, bundle.exits()})
                      : file_.array<float>("log_odds", {std::nullopt, bundle.exits(), bundle.objectives()})) {
    const std::size_t candidates = log_odds_.size / width();
    if (slates_.size == 0) fail(REXIT_CORRUPT, file_.path(), ": `slate_offsets` is empty");
    check_offsets(file_, "slate_offsets", slates_, candidates);
    if (bundle.has_catalog()) {
      const Program& program = bundle.program();
      users_ = file_.array<std::int32_t>("user", {size()});
      items_ = file_.array<std::int32_t>("item", {candidates});
      times_ = file_.array<std::int64_t>("as_of", {size()});
      if (!program.contexts.empty()) contexts_ = file_.array<std::int32_t>("context", {size(), program.contexts.size()});
      if (!program.texts.empty()) {
        texts_ = file_.array<std::int64_t>("request_offsets", {size() * program.texts.size() + 1});
        text_tokens_ = file_.array<std::int32_t>("request_tokens", {std::nullopt});
        check_offsets(file_, "request_offsets", texts_, text_tokens_.size);
      }
    } else {
      prefixes_ = file_.array<std::int64_t>("prefix_offsets", {size() + 1});
      prefix_tokens_ = file_.array<std::int32_t>("prefix_tokens", {std::nullopt});
      candidates_ = file_.array<std::int64_t>("candidate_offsets", {candidates + 1});
      candidate_tokens_ = file_.array<std::int32_t>("candidate_tokens", {std::nullopt});
      check_offsets(file_, "prefix_offsets", prefixes_, prefix_tokens_.size);
      check_offsets(file_, "candidate_offsets", candidates_, candidate_tokens_.size);
    }
  }

  std::size_t size() const noexcept { return slates_.size - 1; }  // slates
  std::size_t candidates(std::size_t slate) const { return at(slates_, slate + 1) - at(slates_, slate); }
  std::size_t width() const noexcept { return bundle_.exits() * bundle_.objectives(); }  // log-odds of a candidate
  // [candidates, exits, objectives]
  const float* log_odds(std::size_t slate) const { return log_odds_.data + at(slates_, slate) * width(); }

  // Valid until the next call.
  const Request& request(std::size_t slate) {
    if (bundle_.has_catalog()) {
      read_query(slate);
    } else {
      counts_.clear();
      for (std::size_t i = at(slates_, slate); i < at(slates_, slate + 1); ++i)
        counts_.push_back(at(candidates_, i + 1) - at(candidates_, i));
      request_.tokens = TokenPrompt{prefix_tokens_.data + at(prefixes_, slate), at(prefixes_, slate + 1) - at(prefixes_, slate),
                                    candidate_tokens_.data + at(candidates_, at(slates_, slate)), counts_.data(), counts_.size()};
    }
    return request_;
  }

 private:
  static std::size_t at(const Offsets& offsets, std::size_t i) { return static_cast<std::size_t>(offsets[i]); }

  void read_query(std::size_t slate) {
    const Catalog& catalog = bundle_.catalog();
    Query& query = request_.query;
    query.user = Row(index_at(file_, "user", users_, slate, catalog.users.ids.size()));
    query.items.clear();
    for (std::size_t i = at(slates_, slate); i < at(slates_, slate + 1); ++i)
      query.items.push_back(Row(index_at(file_, "item", items_, i, catalog.items.ids.size())));
    query.as_of = times_[slate];
    const std::vector<Context>& contexts = catalog.program.contexts;
    query.context.clear();
    for (std::size_t i = 0; i < contexts.size(); ++i) {
      const std::size_t index = slate * contexts.size() + i;
      query.context.push_back(contexts_[index] < 0
                                  ? Context::missing
                                  : std::int32_t(index_at(file_, "context", contexts_, index, contexts[i].size())));
    }
    const std::vector<RequestText>& texts = catalog.program.texts;
    query.texts.clear();
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::size_t begin = at(texts_, slate * texts.size() + i), end = at(texts_, slate * texts.size() + i + 1);
      if (end - begin > texts[i].limit)
        fail(REXIT_CORRUPT, file_.path(), ": request text `", texts[i].name, "` of slate ", slate, " has ", end - begin,
             " tokens, expected at most ", texts[i].limit);
      for (std::size_t t = begin; t < end; ++t) index_at(file_, "request_tokens", text_tokens_, t, bundle_.vocabulary());
      query.texts.push_back({text_tokens_.data + begin, end - begin});
    }
  }

  const Bundle& bundle_;
  Safetensors file_;
  Offsets slates_, prefixes_, candidates_, texts_;
  Array<float> log_odds_;
  Array<std::int32_t> users_, items_, contexts_, prefix_tokens_, candidate_tokens_, text_tokens_;
  Array<std::int64_t> times_;
  Request request_;
  std::vector<std::size_t> counts_;
};

}  // namespace

void check_parity(const std::shared_ptr<const LoadedBundle>& loaded) {
  const Bundle& bundle = loaded->bundle;
  const std::string where = bundle.where(bundle.variant().golden);
  if (!bundle.variant().tolerance)
    fail(REXIT_CORRUPT, bundle.where_variant("variant.json"),
         ": has no parity.tolerance, which golden samples are compared with");
  const float tolerance = *bundle.variant().tolerance;
  GoldenSamples samples(bundle);
  Session session(loaded, 0);
  for (std::size_t slate = 0; slate < samples.size(); ++slate) {
    if (samples.candidates(slate) == 0) continue;
    session.clear_cache();  // keys copied from another prefix may change the last bits
    session.begin_call();
    rexit_stats ignored{};
    const std::vector<float>& log_odds = session.trace(samples.request(slate), Clock::now(), ignored);
    const float* expected = samples.log_odds(slate);
    for (std::size_t i = 0; i < log_odds.size(); ++i) {
      const float difference = std::fabs(log_odds[i] - expected[i]);
      if (!(difference <= tolerance))
        fail(REXIT_MISMATCH, where, ": slate ", slate, ", candidate ", i / samples.width(), ", exit ",
             i % samples.width() / bundle.objectives(), bundle.objectives() == 1 ? "" : ", objective ",
             bundle.objectives() == 1 ? "" : bundle.variant().objectives[i % bundle.objectives()], ": log-odds ", log_odds[i],
             ", recorded ", expected[i], ": a difference of ", difference, ", allowed ", tolerance);
    }
  }
}

}  // namespace rexit::core

// Any text as a request, for every function of a session that reads one, and as the policy of a call, in sessions over seed
// bundles of all kinds.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "target.hpp"

namespace {

using namespace rexit::fuzz;

struct Opened : OpenedSeed {
  explicit Opened(const char* seed) : OpenedSeed(seed) {
    rexit_bundle_info info{};
    REXIT_PROMISE(ok(rexit_bundle_get_info(bundle, &info)));
    exits = info.exits;
    REXIT_PROMISE(ok(rexit_session_create(bundle, nullptr, &session)));
  }

  std::size_t exits = 0;
  rexit_session* session = nullptr;
};

// A floor may leave out every candidate.
bool may_be_empty(std::string_view text) {
  const nlohmann::json request = nlohmann::json::parse(text);
  return request.contains("floor") && request["floor"] == true;
}

void check_scores(const Opened& opened, std::string_view text, const rexit_call_options& options) {
  const rexit_score* scores = nullptr;
  std::size_t count = 0;
  if (!ok(rexit_session_score(opened.session, text.data(), text.size(), &options, &scores, &count, nullptr))) {
    REXIT_PROMISE(scores == nullptr && count == 0);
    return;
  }
  REXIT_PROMISE(count != 0 || may_be_empty(text));
  for (std::size_t i = 0; i < count; ++i) {
    const rexit_score& score = scores[i];
    rexit_item_id id{};
    REXIT_PROMISE(ok(rexit_session_get_item(opened.session, score.item, &id)));
    if (score.exit == REXIT_NO_EXIT)
      REXIT_PROMISE(std::isnan(score.probability) && std::isnan(score.log_odds));
    else
      REXIT_PROMISE(score.exit < opened.exits && score.probability >= 0 && score.probability <= 1 &&
                    std::isfinite(score.log_odds));
  }
}

void check_answer(const Opened& opened, std::string_view text, const rexit_call_options& options) {
  const char* answer = nullptr;
  std::size_t bytes = 0;
  if (!ok(rexit_session_score_json(opened.session, text.data(), text.size(), &options, &answer, &bytes, nullptr))) {
    REXIT_PROMISE(answer == nullptr && bytes == 0);
    return;
  }
  REXIT_PROMISE(std::strlen(answer) == bytes && std::strchr(answer, '\n') == nullptr);
  const nlohmann::json request = nlohmann::json::parse(text), parsed = nlohmann::json::parse(answer);
  REXIT_PROMISE(!parsed["scores"].empty() || may_be_empty(text));
  for (const char* key : {"id", "user"})
    REXIT_PROMISE(!request.contains(key) || request[key].is_null() || request[key] == parsed[key]);
}

void check_trace_and_prompt(const Opened& opened, std::string_view text) {
  const float* log_odds = nullptr;
  std::size_t count = 0;
  if (ok(rexit_session_trace(opened.session, text.data(), text.size(), &log_odds, &count, nullptr))) {
    for (std::size_t i = 0; i < count * opened.exits; ++i) REXIT_PROMISE(std::isfinite(log_odds[i]));
  } else {
    REXIT_PROMISE(log_odds == nullptr && count == 0);
  }
  rexit_prompt prompt{};
  if (!ok(rexit_session_prompt(opened.session, text.data(), text.size(), &prompt))) return;
  REXIT_PROMISE(prompt.candidate_count != 0);
  for (std::size_t i = 0; i < prompt.candidate_count; ++i) REXIT_PROMISE(prompt.ends[i] < prompt.ends[i + 1]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Opened opened[] = {Opened("plain"),  Opened("strings"), Opened("policy"), Opened("lists"),
                                  Opened("tokens"), Opened("inputs"),  Opened("zero"),   Opened("scores")};
  const std::vector<char> memory(data, data + size);  // exactly its size: the sanitizer sees what is read behind it
  const std::string_view text(memory.data(), size);
  rexit_call_options options{};
  options.policy = text.data();
  options.policy_bytes = size;
  for (const Opened& seed : opened) {
    check_scores(seed, text, {});
    check_answer(seed, text, {});
    if (size != 0)
      for (const char* request :
           {R"({"candidates": [[3], [4, 5]]})", R"({"candidates": [[3], [4, 5]], "scores": {"bm25": [1, null]}})"})
        check_scores(seed, request, options);
    check_trace_and_prompt(seed, text);
    if (size % 16 == 0) ok(rexit_session_trim(seed.session));
    if (size % 16 == 1) ok(rexit_session_clear_cache(seed.session));
  }
  return 0;
}

// Calls of the C ABI in a session, with ids, options and struct sizes from the bytes. Structs have memory of exactly their
// claimed size, and outputs of exactly the size in the header.
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>

#include "target.hpp"

namespace {

using namespace rexit::fuzz;

// An opened seed bundle.
struct Opened {
  explicit Opened(const char* name) : strings(std::string(name) == "strings") {
    folder.put(seed_bundle(name));
    REXIT_PROMISE(ok(rexit_bundle_open(folder.path().c_str(), nullptr, &bundle)));
    rexit_bundle_info info{};
    info.struct_size = sizeof info;
    REXIT_PROMISE(ok(rexit_bundle_get_info(bundle, &info)));
    objectives = info.objectives;
  }
  ~Opened() { rexit_bundle_close(bundle); }

  Folder folder;
  rexit_bundle* bundle = nullptr;
  bool strings;
  std::size_t objectives = 1;
};

rexit_id id(Bytes& bytes, bool strings, bool user) {
  static const char* const texts[] = {"user-ü0001", "user-ü0002", "item-ü0000", "item-ü0001", "item-ü0002", "", "\xff", "user-"};
  if (bytes.below(32) == 0) strings = !strings;
  if (strings) return {0, texts[bytes.below(std::size(texts))]};
  if (bytes.below(16) == 0) return {bytes.number<std::int64_t>(), nullptr};
  const auto row = static_cast<std::int64_t>(bytes.below(21));
  return {user ? 100 + 3 * row : -7 + 5 * row, nullptr};
}

float any_float(Bytes& bytes) {
  constexpr float special[] = {0,
                               -0.0f,
                               1,
                               std::numeric_limits<float>::infinity(),
                               -std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN(),
                               std::numeric_limits<float>::max(),
                               1e-40f};
  return bytes.flag() ? special[bytes.below(std::size(special))] : static_cast<float>(bytes.number<std::int8_t>()) / 8;
}

// A copy of the struct in memory of `struct_size` bytes: its size, a smaller size (an older header), or a larger one.
template <class T>
std::unique_ptr<std::byte[]> sized(T value, Bytes& bytes) {
  std::size_t size = sizeof value;
  const std::size_t kind = bytes.below(16);
  if (kind == 0) size = sizeof(std::size_t) + bytes.below(sizeof value);
  if (kind == 1) size = sizeof value + bytes.below(64);
  if (kind == 2) size = sizeof value - bytes.below(sizeof value / sizeof(std::size_t)) * sizeof(std::size_t);
  value.struct_size = size;
  auto memory = std::make_unique<std::byte[]>(size);
  std::memcpy(memory.get(), &value, std::min(size, sizeof value));
  if (kind == 1 && bytes.flag() && size > sizeof value) memory[size - 1] = std::byte{1};
  return memory;
}

struct Policy {
  std::vector<float> upper, lower, rise, fall;
  std::unique_ptr<std::byte[]> top_k, memory;

  explicit Policy(Bytes& bytes) {
    const std::size_t exits = bytes.below(16) == 0 ? bytes.below(5) : 3;
    for (auto* thresholds : {&upper, &lower})
      for (std::size_t k = 0; k < exits; ++k) thresholds->push_back(any_float(bytes));
    for (auto* moves : {&rise, &fall})
      for (std::size_t k = 0; k < 2; ++k) moves->push_back(std::fabs(any_float(bytes)));
    rexit_policy policy{};
    policy.upper = upper.data();
    policy.lower = lower.data();
    policy.exits = exits;
    policy.patience = bytes.below(5);
    policy.quorum = any_float(bytes);
    if (bytes.flag()) {
      rexit_top_k rule{};
      rule.k = bytes.below(6);
      rule.rise = rise.data();
      rule.fall = fall.data();
      rule.ordered = static_cast<std::int32_t>(bytes.below(3));
      top_k = sized(rule, bytes);
      policy.top_k = reinterpret_cast<const rexit_top_k*>(top_k.get());
    }
    memory = sized(policy, bytes);
  }
};

// Room for probabilities by objective, in memory of exactly the counted size.
struct Objectives {
  std::vector<float> probabilities;

  // `scores`: as many as the answer can have.
  Objectives(Bytes& bytes, std::size_t scores) {
    if (bytes.flag()) probabilities.assign(bytes.below(8) == 0 ? bytes.below(8) : scores * 2, -1234.5f);
    probabilities.shrink_to_fit();
  }
  template <class Request>
  void fill(Request& request) {
    request.probabilities = probabilities.data();
    request.probability_count = probabilities.size();
  }
  // After a call. Without an answer, or beyond the answers of a single objective, some may be NaN or unwritten.
  void check(bool done) const {
    for (const float p : probabilities) REXIT_PROMISE(p == -1234.5f || (done && (std::isnan(p) || (p >= 0 && p <= 1))));
  }
};

// Tokens in memory of exactly the counted size; most are in the vocabulary.
void call_with_tokens(rexit_session* session, std::size_t objective_count, Bytes& bytes) {
  const auto token = [&bytes] {
    return bytes.below(64) == 0 ? bytes.number<std::int32_t>() : static_cast<std::int32_t>(bytes.below(40));
  };
  std::vector<std::int32_t> prefix, candidates;
  std::vector<std::size_t> counts;
  for (std::size_t i = bytes.below(32); i-- > 0;) prefix.push_back(token());
  for (std::size_t c = bytes.below(8); c-- > 0;) {
    counts.push_back(bytes.below(8));
    for (std::size_t i = 0; i < counts.back(); ++i) candidates.push_back(token());
  }
  candidates.shrink_to_fit();
  rexit_token_request request{};
  request.score_size = bytes.below(16) == 0 ? bytes.below(sizeof(rexit_score)) : sizeof(rexit_score);
  request.prefix = bytes.below(16) == 0 ? nullptr : prefix.data();
  request.prefix_count = prefix.size();
  request.candidates = bytes.below(16) == 0 ? nullptr : candidates.data();
  request.candidate_counts = counts.data();
  request.candidate_count = counts.size();
  // Too long for the model, so that it must be refused before any token is read.
  if (bytes.below(16) == 0) request.prefix_count = SIZE_MAX - bytes.below(16);
  if (bytes.below(16) == 0 && !counts.empty()) counts[bytes.below(counts.size())] = SIZE_MAX - bytes.below(16);
  const Policy policy(bytes);
  if (bytes.flag()) request.policy = reinterpret_cast<const rexit_policy*>(policy.memory.get());
  request.has_force_exit = bytes.below(4) == 0;
  request.force_exit = static_cast<std::uint32_t>(bytes.below(5));
  if (bytes.below(8) == 0) request.deadline_us = bytes.number<std::int64_t>();
  request.top_k = bytes.below(4) == 0 ? bytes.number<std::size_t>() : bytes.below(4);
  Objectives objectives(bytes, counts.size());
  objectives.fill(request);
  const auto memory = sized(request, bytes);
  const auto* c_request = reinterpret_cast<const rexit_token_request*>(memory.get());
  if (bytes.flag()) {
    std::vector<float> traced(counts.size() * 3 * objective_count, -1234.5f);
    const bool done = ok(rexit_session_trace_tokens(session, c_request, traced.data(), nullptr));
    for (const float z : traced) REXIT_PROMISE(done ? std::isfinite(z) && z != -1234.5f : z == -1234.5f);
    return;
  }
  std::vector<rexit_score> scores(counts.size());
  const bool done = ok(rexit_session_score_tokens(session, c_request, scores.data(), nullptr));
  for (const rexit_score& score : scores) REXIT_PROMISE(!done || score.item < counts.size());
  objectives.check(done);
}

// The request texts `query` and `note` of the seed bundle `texts`, tokens in memory of exactly the counted size; most are in the
// vocabulary and within the limits.
struct Texts {
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<rexit_text> entries;

  explicit Texts(Bytes& bytes) : tokens(bytes.below(4)) {
    static const char* const names[] = {"query", "note", "query", "page", nullptr};
    for (auto& text : tokens) {
      for (std::size_t i = bytes.below(8); i-- > 0;)
        text.push_back(bytes.below(64) == 0 ? bytes.number<std::int32_t>() : static_cast<std::int32_t>(bytes.below(40)));
      text.shrink_to_fit();
      rexit_text entry{names[bytes.below(bytes.below(8) == 0 ? std::size(names) : 2)], text.data(), text.size()};
      if (bytes.below(32) == 0) entry.tokens = nullptr;
      // Too many, so that they must be refused before any token is read.
      if (bytes.below(32) == 0) entry.token_count = SIZE_MAX - bytes.below(16);
      entries.push_back(entry);
    }
  }
};

void call(rexit_session* session, const Opened& opened, Bytes& bytes) {
  std::vector<rexit_id> items, recent;
  for (std::size_t i = bytes.below(12); i-- > 0;) items.push_back(id(bytes, opened.strings, false));
  for (std::size_t i = bytes.below(8); i-- > 0;) recent.push_back(id(bytes, opened.strings, false));
  std::vector<std::uint8_t> liked(recent.size());
  for (std::uint8_t& verdict : liked) verdict = bytes.number<std::uint8_t>();
  rexit_request request{};
  const rexit_id user = id(bytes, opened.strings, true);
  request.id_size = bytes.below(16) == 0 ? bytes.below(sizeof(rexit_id)) : sizeof(rexit_id);  // as long as the entries at most
  request.score_size = bytes.below(16) == 0 ? bytes.below(sizeof(rexit_score)) : sizeof(rexit_score);
  request.user = bytes.below(16) == 0 ? nullptr : &user;
  request.items = items.data();
  request.item_count = items.size();
  request.recent_items = recent.data();
  request.recent_liked = bytes.flag() ? liked.data() : nullptr;
  request.recent_count = recent.size();
  request.has_as_of = static_cast<std::int32_t>(bytes.below(3));
  request.as_of = bytes.flag() ? bytes.number<std::int64_t>() : static_cast<std::int64_t>(bytes.below(70));
  const Texts texts(bytes);
  request.texts = bytes.below(16) == 0 ? nullptr : texts.entries.data();
  request.text_count = texts.entries.size();
  request.text_size = bytes.below(16) == 0 ? bytes.below(sizeof(rexit_text)) : sizeof(rexit_text);
  const Policy policy(bytes);
  if (bytes.flag()) request.policy = reinterpret_cast<const rexit_policy*>(policy.memory.get());
  request.has_force_exit = bytes.below(4) == 0;
  request.force_exit = static_cast<std::uint32_t>(bytes.below(5));
  if (bytes.below(8) == 0) request.deadline_us = bytes.number<std::int64_t>();
  request.top_k = bytes.below(4) == 0 ? bytes.number<std::size_t>() : bytes.below(4);
  Objectives objectives(bytes, items.size());
  objectives.fill(request);
  const auto memory = sized(request, bytes);
  const auto* c_request = reinterpret_cast<const rexit_request*>(memory.get());
  const bool limited = request.top_k != 0 && c_request->struct_size > offsetof(rexit_request, top_k);
  const std::size_t top = limited ? std::min(request.top_k, items.size()) : items.size();

  rexit_stats stats{};
  stats.struct_size = sizeof stats;
  rexit_stats* stats_out = bytes.flag() ? &stats : nullptr;
  switch (bytes.below(4)) {
    case 0: {
      std::vector<float> traced(items.size() * 3 * opened.objectives, -1234.5f);
      if (ok(rexit_session_trace(session, c_request, traced.data(), stats_out))) {
        for (const float z : traced) REXIT_PROMISE(std::isfinite(z) && z != -1234.5f);
      } else {
        for (const float z : traced) REXIT_PROMISE(z == -1234.5f);
      }
      return;
    }
    case 1: {
      std::size_t count = 77;
      if (!ok(rexit_session_prompt(session, c_request, nullptr, 0, nullptr, &count))) {
        REXIT_PROMISE(count == 77);
        return;
      }
      std::vector<std::int32_t> tokens(count);
      std::vector<std::size_t> offsets(items.size() + 2);
      REXIT_PROMISE(ok(rexit_session_prompt(session, c_request, tokens.data(), count, offsets.data(), &count)));
      for (std::size_t i = 1; i < offsets.size(); ++i) REXIT_PROMISE(offsets[i - 1] <= offsets[i] && offsets[i] <= count);
      return;
    }
    default: {
      std::vector<rexit_score> scores(top);
      for (rexit_score& score : scores) score.item = 4321;
      const bool done = ok(rexit_session_score(session, c_request, scores.data(), stats_out));
      objectives.check(done);
      if (done) {
        std::vector<bool> is_scored(items.size());
        for (const rexit_score& score : scores) {
          REXIT_PROMISE(score.item < items.size() && !is_scored[score.item]);
          is_scored[score.item] = true;
          if (score.exit == REXIT_NO_EXIT) {
            REXIT_PROMISE(std::isnan(score.probability) && std::isnan(score.log_odds));
          } else {
            REXIT_PROMISE(score.exit < 3 && score.probability >= 0 && score.probability <= 1 && std::isfinite(score.log_odds));
          }
        }
      } else {
        for (const rexit_score& score : scores) REXIT_PROMISE(score.item == 4321);
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Opened opened[] = {Opened("plain"), Opened("vectors"), Opened("strings"), Opened("policy"),
                                  Opened("lists"), Opened("tokens"),  Opened("texts"),   Opened("objectives")};
  Bytes bytes(data, size);
  const Opened& chosen = opened[bytes.below(std::size(opened))];
  rexit_session_options options{};
  options.cache_bytes = std::size_t{bytes.number<std::uint16_t>()};
  options.audit = options.cache_bytes % 64 == 3 ? std::nan("") : options.cache_bytes % 2 == 1 ? 1 : 0;
  options.audit_seed = 1;
  const auto memory = sized(options, bytes);
  rexit_session* session = nullptr;
  if (!ok(rexit_session_create(chosen.bundle, reinterpret_cast<const rexit_session_options*>(memory.get()), &session))) return 0;
  for (int calls = 0; calls < 16 && !bytes.empty(); ++calls) {
    switch (bytes.below(13)) {
      case 0:
        ok(rexit_session_clear_cache(session));
        break;
      case 1:
        ok(rexit_session_trim(session));
        break;
      case 2:
        ok(rexit_session_warm_up(session));
        break;
      case 3: {
        rexit_memory memory_info{};
        const auto out = sized(memory_info, bytes);
        ok(rexit_session_get_memory(session, reinterpret_cast<rexit_memory*>(out.get())));
        break;
      }
      case 4: {
        rexit_segment_stats stats{};
        const auto out = sized(stats, bytes);
        ok(rexit_session_get_segment(session, bytes.below(5), reinterpret_cast<rexit_segment_stats*>(out.get())));
        break;
      }
      case 5: {
        rexit_audit audit{};
        const auto out = sized(audit, bytes);
        auto* audit_out = reinterpret_cast<rexit_audit*>(out.get());
        if (!ok(rexit_session_audit(session, audit_out)) || audit_out->struct_size < sizeof audit) break;
        std::memcpy(&audit, out.get(), sizeof audit);
        for (std::size_t i = 0; i < audit.item_count; ++i)
          REXIT_PROMISE(audit.exits[i] < 3 && std::isfinite(audit.policy_c[i]) && std::isfinite(audit.full_log_odds[i]));
        break;
      }
      case 6:
      case 7:
        call_with_tokens(session, chosen.objectives, bytes);
        break;
      default:
        call(session, chosen, bytes);
    }
  }
  rexit_session_destroy(session);
  return 0;
}

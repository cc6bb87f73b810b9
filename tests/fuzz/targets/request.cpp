// Calls of the C ABI in a session, with ids, options and struct sizes from the bytes. Structs have memory of exactly their
// claimed size, and outputs of exactly the size in the header.
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>

#include "target.hpp"

namespace {

using namespace rexit::fuzz;

// An opened seed bundle and what it is like.
struct Opened : OpenedSeed {
  explicit Opened(const char* seed) : OpenedSeed(seed), strings(name == "strings") {
    rexit_bundle_info info{};
    info.struct_size = sizeof info;
    REXIT_PROMISE(ok(rexit_bundle_get_info(bundle, &info)));
    exits = info.exits;
  }

  bool strings;
  std::size_t exits = 0;
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
  std::vector<std::size_t> keep;
  std::unique_ptr<std::byte[]> top_k, memory;

  Policy(Bytes& bytes, std::size_t of_bundle) {
    const std::size_t exits = bytes.below(16) == 0 ? bytes.below(6) : of_bundle;
    for (auto* thresholds : {&upper, &lower})
      for (std::size_t k = 0; k < exits; ++k) thresholds->push_back(any_float(bytes));
    for (auto* moves : {&rise, &fall})
      for (std::size_t k = 0; k < 5; ++k) moves->push_back(std::fabs(any_float(bytes)));
    rexit_policy policy{};
    policy.upper = upper.data();
    policy.lower = lower.data();
    policy.exits = exits;
    policy.patience = bytes.below(5);
    policy.quorum = bytes.number<std::uint16_t>();
    if (bytes.flag()) {
      rexit_top_k rule{};
      rule.k = bytes.below(6);
      rule.rise = rise.data();
      rule.fall = fall.data();
      rule.ordered = static_cast<std::int32_t>(bytes.below(3));
      top_k = sized(rule, bytes);
      policy.top_k = reinterpret_cast<const rexit_top_k*>(top_k.get());
    }
    for (std::size_t k = 0; k < exits; ++k) keep.push_back(bytes.below(16) == 0 ? SIZE_MAX : k + 1 == exits ? 0 : bytes.below(5));
    if (bytes.flag()) policy.keep = keep.data();
    memory = sized(policy, bytes);
  }
};

// A prompt as tokens, in memory of exactly the counted size; most are in the vocabulary.
struct Tokens {
  std::vector<std::int32_t> prefix, candidates;
  std::vector<std::size_t> counts;
  std::unique_ptr<std::byte[]> memory;

  explicit Tokens(Bytes& bytes) {
    for (std::size_t i = bytes.below(32); i-- > 0;) prefix.push_back(token(bytes));
    for (std::size_t c = bytes.below(8); c-- > 0;) {
      counts.push_back(bytes.below(8));
      for (std::size_t i = 0; i < counts.back(); ++i) candidates.push_back(token(bytes));
    }
    candidates.shrink_to_fit();
    rexit_tokens tokens{};
    tokens.prefix = bytes.below(16) == 0 ? nullptr : prefix.data();
    tokens.prefix_count = prefix.size();
    tokens.candidates = bytes.below(16) == 0 ? nullptr : candidates.data();
    tokens.candidate_counts = counts.data();
    tokens.candidate_count = counts.size();
    // Too long for the model, so that it must be refused before any token is read.
    if (bytes.below(16) == 0) tokens.prefix_count = SIZE_MAX - bytes.below(16);
    if (bytes.below(16) == 0 && !counts.empty()) counts[bytes.below(counts.size())] = SIZE_MAX - bytes.below(16);
    memory = sized(tokens, bytes);
  }
  static std::int32_t token(Bytes& bytes) {
    return bytes.below(64) == 0 ? bytes.number<std::int32_t>() : static_cast<std::int32_t>(bytes.below(40));
  }
};

// Values for the inputs of the seed bundle `inputs`. Tokens are in memory of exactly the counted size; most are in the vocabulary
// and within the limits.
struct Inputs {
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<rexit_input> entries;

  explicit Inputs(Bytes& bytes) : tokens(bytes.below(6)) {
    static const char* const names[] = {"device", "query", "hour", "note", "query", "page", nullptr};
    static const char* const texts[] = {"tv", "phone", "7", "13.5", "1e400", "\xff", ""};
    for (auto& text : tokens) {
      rexit_input entry{};
      entry.name = names[bytes.below(bytes.below(8) == 0 ? std::size(names) : 4)];
      switch (bytes.below(4)) {
        case 0:
          entry.text = texts[bytes.below(std::size(texts))];
          break;
        case 1:
          entry.number = static_cast<double>(any_float(bytes));
          break;
        default:
          for (std::size_t i = bytes.below(8); i-- > 0;) text.push_back(Tokens::token(bytes));
          text.shrink_to_fit();
          entry.tokens = text.data();
          entry.token_count = text.size();
          // Too many, so that they must be refused before any token is read.
          if (bytes.below(32) == 0) entry.token_count = SIZE_MAX - bytes.below(16);
      }
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
  const Inputs inputs(bytes);
  request.inputs = bytes.below(16) == 0 ? nullptr : inputs.entries.data();
  request.input_count = inputs.entries.size();
  request.input_size = bytes.below(16) == 0 ? bytes.below(sizeof(rexit_input)) : sizeof(rexit_input);
  const Tokens tokens(bytes);
  std::size_t candidates = items.size();
  if (bytes.below(4) == 0) {
    request = rexit_request{};
    if (bytes.below(16) == 0) request.user = &user;
    request.score_size = sizeof(rexit_score);
    request.tokens = reinterpret_cast<const rexit_tokens*>(tokens.memory.get());
    candidates = tokens.counts.size();
  }
  std::vector<float> scores_in;
  for (std::size_t i = 0; i < candidates; ++i) scores_in.push_back(any_float(bytes));
  scores_in.shrink_to_fit();
  if (bytes.flag()) request.scores = scores_in.data();
  const Policy policy(bytes, opened.exits);
  if (bytes.flag()) request.policy = reinterpret_cast<const rexit_policy*>(policy.memory.get());
  request.has_force_exit = bytes.below(4) == 0;
  request.force_exit = static_cast<std::uint32_t>(bytes.below(5));
  if (bytes.below(8) == 0) request.deadline_us = bytes.number<std::int64_t>();
  request.top_k = bytes.below(4) == 0 ? bytes.number<std::size_t>() : bytes.below(4);
  const auto memory = sized(request, bytes);
  const auto* c_request = reinterpret_cast<const rexit_request*>(memory.get());
  const bool limited = request.top_k != 0 && c_request->struct_size > offsetof(rexit_request, top_k);
  const std::size_t top = limited ? std::min(request.top_k, candidates) : candidates;

  rexit_stats stats{};
  stats.struct_size = sizeof stats;
  rexit_stats* stats_out = bytes.flag() ? &stats : nullptr;
  switch (bytes.below(4)) {
    case 0: {
      std::vector<float> traced(candidates * opened.exits, -1234.5f);
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
      std::vector<std::size_t> offsets(candidates + 2);
      REXIT_PROMISE(ok(rexit_session_prompt(session, c_request, tokens.data(), count, offsets.data(), &count)));
      for (std::size_t i = 1; i < offsets.size(); ++i) REXIT_PROMISE(offsets[i - 1] <= offsets[i] && offsets[i] <= count);
      return;
    }
    default: {
      std::vector<rexit_score> scores(top);
      for (rexit_score& score : scores) score.item = 4321;
      const bool done = ok(rexit_session_score(session, c_request, scores.data(), stats_out));
      if (done) {
        std::vector<bool> is_scored(candidates);
        for (const rexit_score& score : scores) {
          REXIT_PROMISE(score.item < candidates && !is_scored[score.item]);
          is_scored[score.item] = true;
          if (score.exit == REXIT_NO_EXIT) {
            REXIT_PROMISE(std::isnan(score.probability) && std::isnan(score.log_odds));
          } else {
            REXIT_PROMISE(score.exit < opened.exits && score.probability >= 0 && score.probability <= 1 &&
                          std::isfinite(score.log_odds));
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
  static const Opened opened[] = {Opened("plain"),  Opened("vectors"), Opened("strings"), Opened("policy"), Opened("lists"),
                                  Opened("tokens"), Opened("inputs"),  Opened("zero"),    Opened("scores")};
  Bytes bytes(data, size);
  const Opened& chosen = opened[bytes.below(std::size(opened))];
  rexit_session_options options{};
  options.cache_bytes = std::size_t{bytes.number<std::uint16_t>()};
  const auto memory = sized(options, bytes);
  rexit_session* session = nullptr;
  if (!ok(rexit_session_create(chosen.bundle, reinterpret_cast<const rexit_session_options*>(memory.get()), &session))) return 0;
  for (int calls = 0; calls < 16 && !bytes.empty(); ++calls) {
    switch (bytes.below(12)) {
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
      default:
        call(session, chosen, bytes);
    }
  }
  rexit_session_destroy(session);
  return 0;
}

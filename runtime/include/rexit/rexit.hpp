// rexit for C++17: the C API with RAII, exceptions and vectors. Header only; it adds no behaviour of its own, so rexit.h says
// what each call does, with units, defaults and thread rules.
//
//   rexit::Bundle bundle("bundle");
//   rexit::Session session(bundle);
//   for (const rexit_score& score : session.score(rexit::Request(42).items({7, 8, 9})).scores) ...
#ifndef REXIT_REXIT_HPP
#define REXIT_REXIT_HPP

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "rexit/rexit.h"

namespace rexit {

// A failed call's status, and the line that describes the failure.
class Error : public std::runtime_error {
 public:
  explicit Error(rexit_status status) : std::runtime_error(rexit_last_error()), status_(status) {}
  rexit_status status() const noexcept { return status_; }

 private:
  rexit_status status_;
};

// Throws Error unless `status` is REXIT_OK.
inline void check(rexit_status status) {
  if (status != REXIT_OK) throw Error(status);
}

// An id as it was in the interactions: an integer or a string.
using Id = std::variant<std::int64_t, std::string>;

// See rexit_bundle_options.
struct BundleOptions {
  std::string variant;              // empty: the bundle's first
  std::string onnxruntime_library;  // empty: $REXIT_ONNXRUNTIME_LIBRARY, else the system's
  std::int32_t threads = 0;         // 0: one per core
  std::string device;               // "cpu", "cuda" or "tensorrt"; empty: the variant's own target
  std::int32_t device_id = 0;
  bool cuda_graphs = false;
};

// Describes the variants of the bundle in folder `path`, without loading them. See rexit_bundle_get_variant.
inline std::vector<rexit_variant_info> variants(const std::string& path) {
  std::vector<rexit_variant_info> all;
  rexit_variant_info info{};
  info.struct_size = sizeof info;
  do {
    check(rexit_bundle_get_variant(path.c_str(), all.size(), &info));
    all.push_back(info);
  } while (all.size() < info.variant_count);
  return all;
}

// Throws if a file of the bundle was modified; `variant` empty: checks all variants. See rexit_bundle_verify.
inline void verify(const std::string& path, const std::string& variant = {}) {
  check(rexit_bundle_verify(path.c_str(), variant.empty() ? nullptr : variant.c_str()));
}

// An opened bundle. Copies share it. Any number of threads may use it at once.
class Bundle {
 public:
  explicit Bundle(const std::string& path, const BundleOptions& options = {}) {
    const auto or_null = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
    const rexit_bundle_options given{
        sizeof given,    or_null(options.variant), or_null(options.onnxruntime_library), or_null(options.device),
        options.threads, options.device_id,        options.cuda_graphs ? 1 : 0,          0};
    rexit_bundle* opened = nullptr;
    check(rexit_bundle_open(path.c_str(), &given, &opened));
    handle_.reset(opened, rexit_bundle_close);
  }

  rexit_bundle_info info() const {
    rexit_bundle_info info{};
    info.struct_size = sizeof info;
    check(rexit_bundle_get_info(handle_.get(), &info));
    return info;
  }
  rexit_exit_info exit(std::size_t index) const {
    rexit_exit_info info{};
    info.struct_size = sizeof info;
    check(rexit_bundle_get_exit(handle_.get(), index, &info));
    return info;
  }
  // What its folder holds now, with the same loaded segments; nothing if that is what this one was opened with. See
  // rexit_bundle_reload.
  std::optional<Bundle> reloaded() const {
    rexit_bundle* made = nullptr;
    check(rexit_bundle_reload(handle_.get(), &made));
    return made == nullptr ? std::nullopt : std::optional<Bundle>(Bundle(made));
  }
  // The catalog's id number `index`; see rexit_bundle_get_id.
  Id id(rexit_ids whose, std::size_t index) const {
    std::int64_t number = 0;
    std::size_t length = 0;
    const rexit_bundle_info all = info();
    if ((whose == REXIT_USERS ? all.string_user_ids : all.string_item_ids) == 0) {
      check(rexit_bundle_get_id(handle_.get(), whose, index, &number, nullptr, 0, nullptr));
      return number;
    }
    check(rexit_bundle_get_id(handle_.get(), whose, index, nullptr, nullptr, 0, &length));
    std::string text(length, '\0');  // data() has room for the NUL
    check(rexit_bundle_get_id(handle_.get(), whose, index, nullptr, text.data(), length + 1, &length));
    return text;
  }
  rexit_bundle* get() const noexcept { return handle_.get(); }

 private:
  explicit Bundle(rexit_bundle* handle) : handle_(handle, rexit_bundle_close) {}

  std::shared_ptr<rexit_bundle> handle_;
};

// The bundle to serve from while its folder is refreshed. Any number of threads may use it at once.
//
//   rexit::LiveBundle live("bundle");       each worker, between two requests:
//   every second: live.reload();              if (session.bundle().get() != live.now().get()) session =
//   rexit::Session(live.now());
class LiveBundle {
 public:
  explicit LiveBundle(const std::string& path, const BundleOptions& options = {}) : now_(path, options) {}

  Bundle now() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return now_;
  }
  // Whether there was something new, which now() then returns. On failure it throws and now() stays.
  bool reload() {
    const std::optional<Bundle> next = now().reloaded();
    if (!next) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    now_ = *next;
    return true;
  }

 private:
  mutable std::mutex mutex_;
  Bundle now_;
};

// See rexit_top_k.
struct TopK {
  std::size_t k = 1;
  bool ordered = false;
  std::vector<float> rise, fall;  // one per exit but the last
};

// Replaces the bundle's stopping rules; see rexit_policy.
struct Policy {
  std::vector<float> upper, lower;  // one per exit
  std::size_t patience = 1;
  float quorum = 0;
  std::optional<TopK> top_k = std::nullopt;
};

// A request that owns its ids; see rexit_request. Setters return *this, so that it can be built in one expression.
class Request {
 public:
  explicit Request(Id user) : user_(std::move(user)) {}

  Request& items(std::vector<Id> ids) { return items_ = std::move(ids), *this; }
  // Interactions newer than the catalog's, oldest first; `liked` empty: all liked.
  Request& recent(std::vector<Id> ids, std::vector<std::uint8_t> liked = {}) {
    if (!liked.empty() && liked.size() != ids.size())
      throw std::invalid_argument("recent has " + std::to_string(ids.size()) + " items and " + std::to_string(liked.size()) +
                                  " verdicts, expected one verdict per item");
    return recent_ = std::move(ids), liked_ = std::move(liked), *this;
  }
  Request& as_of(std::int64_t time) { return as_of_ = time, *this; }
  Request& policy(Policy policy) {
    if (policy.upper.size() != policy.lower.size())
      throw std::invalid_argument("policy has " + std::to_string(policy.upper.size()) + " upper and " +
                                  std::to_string(policy.lower.size()) + " lower thresholds, expected one of each per exit");
    if (const auto& rule = policy.top_k;
        rule && (rule->rise.size() + 1 != policy.upper.size() || rule->fall.size() + 1 != policy.upper.size()))
      throw std::invalid_argument("policy.top_k has " + std::to_string(rule->rise.size()) + " rises and " +
                                  std::to_string(rule->fall.size()) + " falls, expected one of each per exit but the last");
    return policy_ = std::move(policy), *this;
  }
  Request& force_exit(std::uint32_t exit) { return force_exit_ = exit, *this; }
  Request& deadline_us(std::int64_t microseconds) { return deadline_us_ = microseconds, *this; }
  Request& top_k(std::size_t k) { return top_k_ = k, *this; }

  std::size_t item_count() const noexcept { return items_.size(); }
  std::size_t top_k() const noexcept { return top_k_; }

  // Calls use(request) with a `const rexit_request&` that points into this object, and returns what it returns.
  template <class Use>
  auto view(Use&& use) const {
    const rexit_id user = view(user_);
    const std::vector<rexit_id> items = views(items_), recent = views(recent_);
    rexit_top_k top_k{};
    rexit_policy policy{};
    rexit_request request{};
    request.struct_size = sizeof request;
    request.id_size = sizeof(rexit_id);
    request.score_size = sizeof(rexit_score);
    request.user = &user;
    request.items = items.data();
    request.item_count = items.size();
    request.recent_items = recent.data();
    request.recent_liked = liked_.empty() ? nullptr : liked_.data();
    request.recent_count = recent.size();
    request.has_as_of = as_of_ ? 1 : 0;
    request.as_of = as_of_.value_or(0);
    if (policy_) {
      if (const std::optional<TopK>& rule = policy_->top_k)
        top_k = {sizeof top_k, rule->k, rule->rise.data(), rule->fall.data(), rule->ordered ? 1 : 0, 0};
      policy = {sizeof policy,
                policy_->upper.data(),
                policy_->lower.data(),
                policy_->upper.size(),
                policy_->patience,
                policy_->quorum,
                0,
                policy_->top_k ? &top_k : nullptr};
      request.policy = &policy;
    }
    request.has_force_exit = force_exit_ ? 1 : 0;
    request.force_exit = force_exit_.value_or(0);
    request.deadline_us = deadline_us_;
    request.top_k = top_k_;
    return use(static_cast<const rexit_request&>(request));
  }

 private:
  static rexit_id view(const Id& id) {
    if (const auto* text = std::get_if<std::string>(&id)) return {0, text->c_str()};
    return {std::get<std::int64_t>(id), nullptr};
  }
  static std::vector<rexit_id> views(const std::vector<Id>& ids) {
    std::vector<rexit_id> all;
    all.reserve(ids.size());
    for (const Id& id : ids) all.push_back(view(id));
    return all;
  }

  Id user_;
  std::vector<Id> items_, recent_;
  std::vector<std::uint8_t> liked_;
  std::optional<std::int64_t> as_of_;
  std::optional<Policy> policy_;
  std::optional<std::uint32_t> force_exit_;
  std::int64_t deadline_us_ = 0;
  std::size_t top_k_ = 0;
};

// One entry per answer, in the order of the request or, with top_k, best first.
struct Scores {
  std::vector<rexit_score> scores;
  rexit_stats stats{};
};

// The raw log-odds at every exit.
struct Trace {
  std::vector<float> log_odds;  // [items, exits]
  rexit_stats stats{};
};

// The token ids a request is answered from; see rexit_session_prompt.
struct Prompt {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> offsets;  // 0, the end of the prefix, the end of each candidate
};

// Buffers and cached prefixes. One thread at a time may call it; cancel() and what reads (memory, segments, counters,
// reset_counters) may be called from any, at any time. Keeps the bundle alive.
class Session {
 public:
  // `cache_bytes`: limit for cached prefixes; 0: 32 MiB. `slate_bytes`: for hidden states of one slate; 0: 256 MiB.
  explicit Session(const Bundle& bundle, std::size_t cache_bytes = 0, std::size_t slate_bytes = 0) : bundle_(bundle) {
    rexit_session_options options{};
    options.struct_size = sizeof options;
    options.cache_bytes = cache_bytes;
    options.slate_bytes = slate_bytes;
    rexit_session* created = nullptr;
    check(rexit_session_create(bundle.get(), &options, &created));
    handle_.reset(created);
  }

  const Bundle& bundle() const noexcept { return bundle_; }

  Scores score(const Request& request) {
    Scores result;
    const std::size_t all = request.item_count(), k = request.top_k();
    result.scores.resize(k == 0 || k > all ? all : k);
    result.stats = empty_stats();
    rexit_score none{};  // for an empty slate: the library refuses that itself, but checks the pointer first
    request.view([&](const rexit_request& view) {
      check(rexit_session_score(handle_.get(), &view, result.scores.empty() ? &none : result.scores.data(), &result.stats));
    });
    return result;
  }

  Trace trace(const Request& request) {
    Trace result;
    result.log_odds.resize(request.item_count() * bundle_.info().exits);
    result.stats = empty_stats();
    float none = 0;
    request.view([&](const rexit_request& view) {
      check(rexit_session_trace(handle_.get(), &view, result.log_odds.empty() ? &none : result.log_odds.data(), &result.stats));
    });
    return result;
  }

  Prompt prompt(const Request& request) {
    Prompt result;
    request.view([&](const rexit_request& view) {
      std::size_t count = 0;
      check(rexit_session_prompt(handle_.get(), &view, nullptr, 0, nullptr, &count));
      result.tokens.resize(count);
      result.offsets.resize(request.item_count() + 2);
      check(rexit_session_prompt(handle_.get(), &view, result.tokens.data(), count, result.offsets.data(), &count));
    });
    return result;
  }

  void warm_up() { check(rexit_session_warm_up(handle_.get())); }
  void clear_cache() { check(rexit_session_clear_cache(handle_.get())); }
  // The cached prefixes to a file, and back from one; see rexit_session_save_cache and rexit_session_load_cache.
  void save_cache(const std::string& path) { check(rexit_session_save_cache(handle_.get(), path.c_str())); }
  void load_cache(const std::string& path) { check(rexit_session_load_cache(handle_.get(), path.c_str())); }
  void trim() { check(rexit_session_trim(handle_.get())); }
  rexit_memory memory() const {
    rexit_memory memory{};
    memory.struct_size = sizeof memory;
    check(rexit_session_get_memory(handle_.get(), &memory));
    return memory;
  }
  // From any thread: the running call throws Error with REXIT_CANCELLED soon.
  void cancel() { check(rexit_session_cancel(handle_.get())); }
  // What each segment did in the last score, trace or warm_up.
  std::vector<rexit_segment_stats> segments() const {
    std::vector<rexit_segment_stats> all(bundle_.info().exits);
    for (std::size_t k = 0; k < all.size(); ++k) {
      all[k].struct_size = sizeof all[k];
      check(rexit_session_get_segment(handle_.get(), k, &all[k]));
    }
    return all;
  }
  // What candidates did at each exit so far; see rexit_exit_counters.
  std::vector<rexit_exit_counters> counters() const {
    std::vector<rexit_exit_counters> all(bundle_.info().exits);
    for (std::size_t k = 0; k < all.size(); ++k) {
      all[k].struct_size = sizeof all[k];
      check(rexit_session_get_counters(handle_.get(), k, &all[k]));
    }
    return all;
  }
  void reset_counters() { check(rexit_session_reset_counters(handle_.get())); }
  rexit_session* get() const noexcept { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(rexit_session* session) const noexcept { rexit_session_destroy(session); }
  };
  static rexit_stats empty_stats() {
    rexit_stats stats{};
    stats.struct_size = sizeof stats;
    return stats;
  }

  Bundle bundle_;
  std::unique_ptr<rexit_session, Destroy> handle_;
};

}  // namespace rexit

#endif  // REXIT_REXIT_HPP

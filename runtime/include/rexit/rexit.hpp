// rexit for C++17: the C API with RAII, exceptions and vectors. Header only. It adds no behaviour: rexit.h documents every call,
// with units, defaults and thread rules.
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
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "rexit/rexit.h"

namespace rexit {

// The status of a failed call, and a line that describes the failure.
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

namespace detail {

template <class Struct>
Struct sized() {
  Struct value{};
  value.struct_size = sizeof value;
  return value;
}

// What `write(&value)` writes; it returns its status.
template <class Struct, class Write>
Struct read(const Write& write) {
  Struct value = sized<Struct>();
  check(write(&value));
  return value;
}

}  // namespace detail

// An id as in the interactions: an integer or a string.
using Id = std::variant<std::int64_t, std::string>;

// See rexit_bundle_options.
struct BundleOptions {
  std::string variant;              // empty: the first with a policy, or else the first
  std::string onnxruntime_library;  // empty: $REXIT_ONNXRUNTIME_LIBRARY, else the system's
  std::int32_t threads = 0;         // 0: one per core
  std::string device;               // "cpu", "cuda" or "tensorrt"; empty: the variant's target
  std::int32_t device_id = 0;
  const void* onnxruntime = nullptr;  // OrtGetApiBase() of the program's own ONNX Runtime
  void* environment = nullptr;        // its OrtEnv*
  std::string provider;               // of ONNX Runtime, in place of the device's
  std::vector<std::pair<std::string, std::string>> provider_options;
  bool own_threads = false;
  rexit_spinning spinning = REXIT_SPINNING_DEFAULT;
};

// Describes the variants of the bundle at `path`, without loading them. See rexit_bundle_get_variant.
inline std::vector<rexit_variant_info> variants(const std::string& path) {
  std::vector<rexit_variant_info> variants;
  auto info = detail::sized<rexit_variant_info>();
  do {
    check(rexit_bundle_get_variant(path.c_str(), variants.size(), &info));
    variants.push_back(info);
  } while (variants.size() < info.variant_count);
  return variants;
}

// Throws if a file of the bundle was modified. `variant` empty: all variants. See rexit_bundle_verify.
inline void verify(const std::string& path, const std::string& variant = {}) {
  check(rexit_bundle_verify(path.c_str(), variant.empty() ? nullptr : variant.c_str()));
}

// An archive in memory. Bundles opened from it and their sessions keep `owner`; without one the caller keeps the memory.
struct Archive {
  const void* data;
  std::size_t bytes;
  std::shared_ptr<const void> owner = nullptr;
};

inline void verify(const Archive& archive, const std::string& variant = {}) {
  check(rexit_archive_verify(archive.data, archive.bytes, variant.empty() ? nullptr : variant.c_str()));
}

// An opened bundle. Copies share the same bundle. Any number of threads may use it at once.
class Bundle {
 public:
  explicit Bundle(const std::string& path, const BundleOptions& options = {})
      : Bundle(open(options, [&](const rexit_bundle_options& c_options, rexit_bundle** handle) {
          return rexit_bundle_open(path.c_str(), &c_options, handle);
        })) {}
  explicit Bundle(const Archive& archive, const BundleOptions& options = {})
      : Bundle(open(options,
                    [&](const rexit_bundle_options& c_options, rexit_bundle** handle) {
                      return rexit_archive_open(archive.data, archive.bytes, &c_options, handle);
                    }),
               archive.owner) {}
  Bundle(const Bundle&) = default;
  Bundle(Bundle&&) = default;
  Bundle& operator=(Bundle other) noexcept {  // the bundle before is closed before its owner
    owner_.swap(other.owner_);
    handle_.swap(other.handle_);
    return *this;
  }

  rexit_bundle_info info() const {
    return detail::read<rexit_bundle_info>([&](rexit_bundle_info* out) { return rexit_bundle_get_info(handle_.get(), out); });
  }
  rexit_exit_info exit(std::size_t index) const {
    return detail::read<rexit_exit_info>([&](rexit_exit_info* out) { return rexit_bundle_get_exit(handle_.get(), index, out); });
  }
  // Opens the folder again, with the loaded segments of this bundle; nullopt if the folder has not changed. See
  // rexit_bundle_reload.
  std::optional<Bundle> reloaded() const {
    rexit_bundle* handle = nullptr;
    check(rexit_bundle_reload(handle_.get(), &handle));
    return handle == nullptr ? std::nullopt : std::optional<Bundle>(Bundle(handle, owner_));
  }
  // A file of the bundle; see rexit_bundle_read_file.
  std::string read_file(const std::string& path) const {
    std::string contents;
    std::size_t bytes = 0;
    check(rexit_bundle_read_file(handle_.get(), path.c_str(), nullptr, 0, &bytes));
    do {
      contents.resize(bytes);
      check(rexit_bundle_read_file(handle_.get(), path.c_str(), contents.data(), contents.size(), &bytes));
    } while (bytes > contents.size());  // replaced by a longer one meanwhile
    contents.resize(bytes);
    return contents;
  }
  rexit_bundle* get() const noexcept { return handle_.get(); }

 private:
  // `open_bundle(c_options, &handle)` returns its status.
  template <class Open>
  static rexit_bundle* open(const BundleOptions& options, const Open& open_bundle) {
    const auto or_null = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : options.provider_options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    auto c_options = detail::sized<rexit_bundle_options>();
    c_options.variant = or_null(options.variant);
    c_options.onnxruntime_library = or_null(options.onnxruntime_library);
    c_options.device = or_null(options.device);
    c_options.threads = options.threads;
    c_options.device_id = options.device_id;
    c_options.onnxruntime = options.onnxruntime;
    c_options.environment = options.environment;
    c_options.provider = or_null(options.provider);
    c_options.provider_keys = keys.data();
    c_options.provider_values = values.data();
    c_options.provider_option_count = keys.size();
    c_options.own_threads = options.own_threads ? 1 : 0;
    c_options.spinning = options.spinning;
    rexit_bundle* handle = nullptr;
    check(open_bundle(c_options, &handle));
    return handle;
  }

  explicit Bundle(rexit_bundle* handle, std::shared_ptr<const void> owner = nullptr)
      : owner_(std::move(owner)), handle_(handle, rexit_bundle_close) {}

  std::shared_ptr<const void> owner_;  // of an archive in memory; declared first: goes last
  std::shared_ptr<rexit_bundle> handle_;
};

// A bundle for a service whose folder or archive is refreshed while it runs. Any number of threads may use it at once.
//
//   rexit::LiveBundle live("bundle");
//   live.reload();                                       // every second
//   if (session.bundle().get() != live.current().get())  // in every worker, between two requests
//     session = rexit::Session(live.current());
class LiveBundle {
 public:
  explicit LiveBundle(const std::string& path, const BundleOptions& options = {}) : current_(path, options) {}

  Bundle current() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return current_;
  }

  // Returns whether the folder has changed; current() then is the new bundle. If it throws, current() does not change.
  bool reload() {
    const std::optional<Bundle> next = current().reloaded();
    if (!next) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    current_ = *next;
    return true;
  }

 private:
  mutable std::mutex mutex_;
  Bundle current_;
};

// See rexit_top_k.
struct TopK {
  std::size_t k = 1;
  bool ordered = false;
  std::vector<float> rise, fall;  // [exits - 1]
};

// Replaces the bundle's stopping rules; see rexit_policy.
struct Policy {
  std::vector<float> upper, lower;  // [exits]
  std::size_t patience = 1;
  std::size_t quorum = 0;
  std::optional<TopK> top_k = std::nullopt;
  std::vector<std::size_t> keep = {};  // [exits], or empty: no limits
};

// The value of an {input.NAME}: a number, a text or token ids; see rexit_input.
using Input = std::variant<double, std::string, std::vector<std::int32_t>>;

// A prompt as token ids; see rexit_tokens.
struct Tokens {
  std::vector<std::int32_t> prefix;
  std::vector<std::int32_t> candidates;  // one candidate after the other
  std::vector<std::size_t> counts;       // tokens of each candidate
};

namespace detail {

// The C struct of a Policy. It points into `source` and itself.
class PolicyView {
 public:
  explicit PolicyView(const std::optional<Policy>& source) {
    if (!source) return;
    if (const std::optional<TopK>& rule = source->top_k)
      top_k_ = {sizeof top_k_, rule->k, rule->rise.data(), rule->fall.data(), rule->ordered ? 1 : 0, 0};
    policy_ = {sizeof policy_,
               source->upper.data(),
               source->lower.data(),
               source->upper.size(),
               source->patience,
               source->quorum,
               source->top_k ? &top_k_ : nullptr,
               source->keep.empty() ? nullptr : source->keep.data()};
  }
  PolicyView(const PolicyView&) = delete;
  PolicyView& operator=(const PolicyView&) = delete;

  // Null without a policy.
  const rexit_policy* get() const noexcept { return policy_.struct_size == 0 ? nullptr : &policy_; }

 private:
  rexit_top_k top_k_{};
  rexit_policy policy_{};
};

// C strings end at a NUL. Throws std::invalid_argument with `name` if the text has one.
inline void check_no_nul(const std::string& text, const std::string& name) {
  if (text.find('\0') != std::string::npos) throw std::invalid_argument(name + " has a NUL, expected text without one");
}

inline void check_policy(const Policy& policy) {
  if (policy.upper.size() != policy.lower.size())
    throw std::invalid_argument("policy has " + std::to_string(policy.upper.size()) + " upper and " +
                                std::to_string(policy.lower.size()) + " lower thresholds, expected as many as exits");
  if (const auto& rule = policy.top_k;
      rule && (rule->rise.size() + 1 != policy.upper.size() || rule->fall.size() + 1 != policy.upper.size()))
    throw std::invalid_argument("policy.top_k has " + std::to_string(rule->rise.size()) + " rises and " +
                                std::to_string(rule->fall.size()) + " falls, expected as many as exits except the last");
  if (!policy.keep.empty() && policy.keep.size() != policy.upper.size())
    throw std::invalid_argument("policy.keep has " + std::to_string(policy.keep.size()) + " numbers, expected as many as exits");
}

inline rexit_id view(const Id& id) {
  if (const auto* text = std::get_if<std::string>(&id)) return {0, text->c_str()};
  return {std::get<std::int64_t>(id), nullptr};
}

inline std::vector<rexit_id> views(const std::vector<Id>& ids) {
  std::vector<rexit_id> result;
  result.reserve(ids.size());
  for (const Id& id : ids) result.push_back(view(id));
  return result;
}

inline rexit_input view(const std::string& name, const std::vector<std::int32_t>& tokens) {
  static constexpr std::int32_t no_tokens = 0;
  return {name.c_str(), nullptr, tokens.empty() ? &no_tokens : tokens.data(), tokens.size(), 0};
}

inline rexit_input view(const std::string& name, const Input& value) {
  if (const auto* tokens = std::get_if<std::vector<std::int32_t>>(&value)) return view(name, *tokens);
  if (const auto* text = std::get_if<std::string>(&value)) return {name.c_str(), text->c_str(), nullptr, 0, 0};
  return {name.c_str(), nullptr, nullptr, 0, std::get<double>(value)};
}

// `values`: pairs of a name and a value.
template <class Values>
std::vector<rexit_input> input_views(const Values& values) {
  std::vector<rexit_input> result;
  result.reserve(values.size());
  for (const auto& [name, value] : values) result.push_back(view(name, value));
  return result;
}

}  // namespace detail

// A request that owns its ids and tokens; see rexit_request. Setters return *this, for chaining. They throw std::invalid_argument
// for a text with a NUL and for lists whose lengths differ; all else is checked when it is scored.
class Request {
 public:
  // For a user; items() says what is scored.
  explicit Request(Id user) : user_(std::move(user)) { check(*user_, "user"); }
  // A prompt as token ids: no user, items, recent, as_of or input.
  explicit Request(Tokens tokens) : tokens_(std::move(tokens)) {
    std::size_t rest = tokens_->candidates.size();
    for (const std::size_t count : tokens_->counts) {
      if (count > rest) throw std::invalid_argument("counts add up to more than the candidates' tokens");
      rest -= count;
    }
    if (rest != 0) throw std::invalid_argument("counts add up to less than the candidates' tokens");
  }

  Request& items(std::vector<Id> ids) {
    check(ids, "items");
    return items_ = std::move(ids), *this;
  }
  // Interactions newer than the catalog's, oldest first; `liked` empty: all liked.
  Request& recent(std::vector<Id> ids, std::vector<std::uint8_t> liked = {}) {
    check(ids, "recent");
    if (!liked.empty() && liked.size() != ids.size())
      throw std::invalid_argument("recent has " + std::to_string(ids.size()) + " items and " + std::to_string(liked.size()) +
                                  " verdicts, expected one verdict per item");
    return recent_ = std::move(ids), liked_ = std::move(liked), *this;
  }
  Request& as_of(std::int64_t time) { return as_of_ = time, *this; }
  // The value of {input.NAME}, one call for each name.
  Request& input(std::string name, Input value) {
    detail::check_no_nul(name, "the name of an input");
    if (const auto* text = std::get_if<std::string>(&value)) detail::check_no_nul(*text, "inputs." + name);
    return inputs_.emplace_back(std::move(name), std::move(value)), *this;
  }

  // The first stage's numbers, one for each candidate; see rexit_request.
  Request& scores(std::vector<float> scores) { return scores_ = std::move(scores), *this; }

  Request& policy(Policy policy) {
    detail::check_policy(policy);
    return policy_ = std::move(policy), *this;
  }
  Request& force_exit(std::uint32_t exit) { return force_exit_ = exit, *this; }
  Request& deadline_us(std::int64_t microseconds) { return deadline_us_ = microseconds, *this; }
  Request& top_k(std::size_t k) { return top_k_ = k, *this; }

  std::size_t top_k() const noexcept { return top_k_; }
  std::size_t candidates() const noexcept { return tokens_ ? tokens_->counts.size() : items_.size(); }

  // Calls use(request) with a `const rexit_request&` that points into this object, and returns its result.
  template <class Use>
  auto view(Use&& use) const {
    static constexpr float no_scores = 0;
    if (scores_ && scores_->size() != candidates())
      throw std::invalid_argument("scores has " + std::to_string(scores_->size()) + " numbers, expected one for each of " +
                                  (tokens_ ? "candidates" : "items") + ", " + std::to_string(candidates()));
    const rexit_id user = user_ ? detail::view(*user_) : rexit_id{};
    const std::vector<rexit_id> items = detail::views(items_), recent = detail::views(recent_);
    const std::vector<rexit_input> inputs = detail::input_views(inputs_);
    const detail::PolicyView policy(policy_);
    rexit_tokens tokens{};
    auto request = detail::sized<rexit_request>();
    request.id_size = sizeof(rexit_id);
    request.score_size = sizeof(rexit_score);
    request.input_size = sizeof(rexit_input);
    if (tokens_) {
      static constexpr std::int32_t no_tokens = 0;
      tokens = {sizeof tokens,          tokens_->prefix.data(),
                tokens_->prefix.size(), tokens_->candidates.empty() ? &no_tokens : tokens_->candidates.data(),
                tokens_->counts.data(), tokens_->counts.size()};
      request.tokens = &tokens;
    }
    request.user = user_ ? &user : nullptr;
    request.items = items.data();
    request.item_count = items.size();
    request.recent_items = recent.data();
    request.recent_liked = liked_.empty() ? nullptr : liked_.data();
    request.recent_count = recent.size();
    request.has_as_of = as_of_ ? 1 : 0;
    request.as_of = as_of_.value_or(0);
    request.inputs = inputs.data();
    request.input_count = inputs.size();
    request.policy = policy.get();
    request.has_force_exit = force_exit_ ? 1 : 0;
    request.force_exit = force_exit_.value_or(0);
    request.deadline_us = deadline_us_;
    request.top_k = top_k_;
    if (scores_) request.scores = scores_->empty() ? &no_scores : scores_->data();
    return use(static_cast<const rexit_request&>(request));
  }

 private:
  static void check(const Id& id, const std::string& name) {
    if (const auto* text = std::get_if<std::string>(&id)) detail::check_no_nul(*text, name);
  }
  static void check(const std::vector<Id>& ids, const char* list) {
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (std::holds_alternative<std::string>(ids[i])) check(ids[i], std::string(list) + "[" + std::to_string(i) + "]");
  }

  std::optional<Id> user_;
  std::optional<Tokens> tokens_;
  std::vector<Id> items_, recent_;
  std::vector<std::uint8_t> liked_;
  std::optional<std::int64_t> as_of_;
  std::vector<std::pair<std::string, Input>> inputs_;
  std::optional<std::vector<float>> scores_;
  std::optional<Policy> policy_;
  std::optional<std::uint32_t> force_exit_;
  std::int64_t deadline_us_ = 0;
  std::size_t top_k_ = 0;
};

// Settings of a request in JSON; see rexit_json_options.
struct JsonOptions {
  std::int64_t waited_us = 0;
  std::int64_t deadline_us = 0;  // 0: none
  std::optional<Policy> policy = std::nullopt;
  std::optional<std::uint32_t> force_exit = std::nullopt;
  std::vector<std::pair<std::string, std::vector<std::int32_t>>> texts = {};  // token ids by the name of the input
};

// An answer in JSON, a line without a newline.
struct JsonAnswer {
  std::string text;
  rexit_stats stats{};
};

// The answers, in the order of the request or, with top_k, best first.
struct Scores {
  std::vector<rexit_score> scores;
  rexit_stats stats{};
};

// The raw log-odds at every exit.
struct Trace {
  std::vector<float> log_odds;  // [items, exits]
  rexit_stats stats{};
};

// A golden sample against what is computed here; see rexit_golden_check.
struct GoldenCheck {
  std::size_t slates = 0, candidates = 0;  // golden samples of the variant; candidates of this one
  float tolerance = 0, worst = 0;
  std::string prompt, log_odds;  // empty: as recorded
  std::vector<float> trace;      // [candidates, exits]
};

// A request's token ids; see rexit_session_prompt.
struct Prompt {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> offsets;  // 0, end of the prefix, end of candidate 0, …
};

// Buffers and cached prefixes. Only one thread at a time may use it, except that any thread may call cancel(), memory()
// and segments() at any time. Keeps the bundle alive.
class Session {
 public:
  // `cache_bytes`: limit for cached prefixes; 0: 32 MiB. `slate_bytes`: limit for a slate's hidden states; 0: 256 MiB.
  explicit Session(const Bundle& bundle, std::size_t cache_bytes = 0, std::size_t slate_bytes = 0) : bundle_(bundle) {
    auto options = detail::sized<rexit_session_options>();
    options.cache_bytes = cache_bytes;
    options.slate_bytes = slate_bytes;
    rexit_session* handle = nullptr;
    check(rexit_session_create(bundle.get(), &options, &handle));
    handle_.reset(handle);
  }
  Session(Session&&) = default;
  Session& operator=(Session&& other) noexcept {  // the session before ends before its bundle
    Session before(std::move(other));
    std::swap(bundle_, before.bundle_);
    handle_.swap(before.handle_);
    return *this;
  }

  const Bundle& bundle() const noexcept { return bundle_; }

  Scores score(const Request& request) {
    Scores result;
    const std::size_t candidates = request.candidates(), k = request.top_k();
    result.scores.resize(k == 0 || k > candidates ? candidates : k);
    result.stats = detail::sized<rexit_stats>();
    rexit_score placeholder{};  // for an empty slate, which the library refuses after it has checked the pointer
    request.view([&](const rexit_request& view) {
      check(
          rexit_session_score(handle_.get(), &view, result.scores.empty() ? &placeholder : result.scores.data(), &result.stats));
    });
    return result;
  }

  // Scores a request in JSON. See rexit_session_score_json.
  JsonAnswer score_json(std::string_view request, const JsonOptions& options = {}) {
    if (options.policy) detail::check_policy(*options.policy);
    for (const auto& text : options.texts) detail::check_no_nul(text.first, "the name of an input");
    const detail::PolicyView policy(options.policy);
    const std::vector<rexit_input> texts = detail::input_views(options.texts);
    auto c_options = detail::sized<rexit_json_options>();
    c_options.waited_us = options.waited_us;
    c_options.deadline_us = options.deadline_us;
    c_options.policy = policy.get();
    c_options.has_force_exit = options.force_exit ? 1 : 0;
    c_options.force_exit = options.force_exit.value_or(0);
    c_options.texts = texts.data();
    c_options.text_count = texts.size();
    c_options.input_size = sizeof(rexit_input);
    const char* answer = nullptr;
    std::size_t bytes = 0;
    JsonAnswer result;
    result.stats = detail::sized<rexit_stats>();
    check(rexit_session_score_json(handle_.get(), request.data(), request.size(), &c_options, &answer, &bytes, &result.stats));
    result.text.assign(answer, bytes);
    return result;
  }

  Trace trace(const Request& request) {
    Trace result;
    result.log_odds.resize(request.candidates() * bundle_.info().exits);
    result.stats = detail::sized<rexit_stats>();
    float placeholder = 0;
    request.view([&](const rexit_request& view) {
      check(rexit_session_trace(handle_.get(), &view, result.log_odds.empty() ? &placeholder : result.log_odds.data(),
                                &result.stats));
    });
    return result;
  }

  // Checks golden sample number `slate`. See rexit_session_check_golden.
  GoldenCheck check_golden(std::size_t slate) {
    const auto check_out = detail::read<rexit_golden_check>(
        [&](rexit_golden_check* out) { return rexit_session_check_golden(handle_.get(), slate, out); });
    GoldenCheck result{check_out.slate_count,
                       check_out.item_count,
                       check_out.tolerance,
                       check_out.worst,
                       check_out.prompt,
                       check_out.log_odds,
                       {}};
    result.trace.assign(check_out.trace, check_out.trace + check_out.item_count * bundle_.info().exits);
    return result;
  }

  Prompt prompt(const Request& request) {
    Prompt result;
    request.view([&](const rexit_request& view) {
      std::size_t count = 0;
      check(rexit_session_prompt(handle_.get(), &view, nullptr, 0, nullptr, &count));
      result.tokens.resize(count);
      result.offsets.resize(request.candidates() + 2);
      check(rexit_session_prompt(handle_.get(), &view, result.tokens.data(), count, result.offsets.data(), &count));
    });
    return result;
  }

  void warm_up() { check(rexit_session_warm_up(handle_.get())); }
  void clear_cache() { check(rexit_session_clear_cache(handle_.get())); }
  void trim() { check(rexit_session_trim(handle_.get())); }
  rexit_memory memory() const {
    return detail::read<rexit_memory>([&](rexit_memory* out) { return rexit_session_get_memory(handle_.get(), out); });
  }
  // From any thread: the running call throws Error with REXIT_CANCELLED soon.
  void cancel() { check(rexit_session_cancel(handle_.get())); }
  // [segments], of the last score, trace or warm_up. See rexit_segment_stats.
  std::vector<rexit_segment_stats> segments() const {
    std::vector<rexit_segment_stats> segments;
    for (std::size_t k = 0; k < bundle_.info().segments; ++k)
      segments.push_back(detail::read<rexit_segment_stats>(
          [&](rexit_segment_stats* out) { return rexit_session_get_segment(handle_.get(), k, out); }));
    return segments;
  }

  rexit_session* get() const noexcept { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(rexit_session* session) const noexcept { rexit_session_destroy(session); }
  };

  Bundle bundle_;
  std::unique_ptr<rexit_session, Destroy> handle_;
};

}  // namespace rexit

#endif  // REXIT_REXIT_HPP

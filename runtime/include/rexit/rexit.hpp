// rexit for C++17: the C API with RAII, exceptions and vectors, and builders that write requests. Header only. It adds no
// behaviour: rexit.h documents every call, with units, defaults and thread rules.
//
//   rexit::Bundle bundle("bundle");
//   rexit::Session session(bundle);
//   for (const rexit_score& score : session.score(rexit::Request(42).items({7, 8, 9})).scores) ...
#ifndef REXIT_REXIT_HPP
#define REXIT_REXIT_HPP

#include <algorithm>
#include <charconv>
#include <cmath>
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

// What `write(&value)` writes; it returns its status.
template <class Struct, class Write>
Struct read(const Write& write) {
  Struct value{};
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
  std::string provider;  // of ONNX Runtime, in place of the device's
  std::vector<std::pair<std::string, std::string>> provider_options;
};

// Describes the variants of the bundle at `path`, without loading them. See rexit_bundle_get_variant.
inline std::vector<rexit_variant_info> variants(const std::string& path) {
  std::vector<rexit_variant_info> variants;
  rexit_variant_info info{};
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

// An opened bundle. Copies share the same bundle. Any number of threads may use it at once.
class Bundle {
 public:
  explicit Bundle(const std::string& path, const BundleOptions& options = {}) : Bundle(open(path, options)) {}

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
    return handle == nullptr ? std::nullopt : std::optional<Bundle>(Bundle(handle));
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
  static rexit_bundle* open(const std::string& path, const BundleOptions& options) {
    const auto or_null = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : options.provider_options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    rexit_bundle_options c_options{};
    c_options.variant = or_null(options.variant);
    c_options.onnxruntime_library = or_null(options.onnxruntime_library);
    c_options.device = or_null(options.device);
    c_options.threads = options.threads;
    c_options.device_id = options.device_id;
    c_options.provider = or_null(options.provider);
    c_options.provider_keys = keys.data();
    c_options.provider_values = values.data();
    c_options.provider_option_count = keys.size();
    rexit_bundle* handle = nullptr;
    check(rexit_bundle_open(path.c_str(), &c_options, &handle));
    return handle;
  }

  explicit Bundle(rexit_bundle* handle) : handle_(handle, rexit_bundle_close) {}

  std::shared_ptr<rexit_bundle> handle_;
};

// A bundle for a service whose folder is refreshed while it runs. Any number of threads may use it at once.
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

  // Returns whether the folder has changed; current() then is the new bundle. If it throws, current() does not change. Calls in
  // several threads take turns.
  bool reload() {
    const std::lock_guard<std::mutex> turn(reload_mutex_);  // a bundle that was read earlier would replace a newer one
    const std::optional<Bundle> next = current().reloaded();
    if (!next) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    current_ = *next;
    return true;
  }

 private:
  std::mutex reload_mutex_;
  mutable std::mutex mutex_;
  Bundle current_;
};

namespace detail {

inline void write(std::string& json, std::int64_t number) { json += std::to_string(number); }

// JSON has no infinity and no NaN: null.
inline void write(std::string& json, double number) {
  if (!std::isfinite(number)) {
    json += "null";
    return;
  }
  char text[32];
  json.append(text, std::to_chars(text, text + sizeof text, number).ptr);
}

inline void write(std::string& json, std::string_view text) {
  json += '"';
  for (const char character : text) {
    if (static_cast<unsigned char>(character) < 0x20) {
      constexpr char digits[] = "0123456789abcdef";
      ((json += "\\u00") += digits[character >> 4]) += digits[character & 15];
      continue;
    }
    if (character == '"' || character == '\\') json += '\\';
    json += character;
  }
  json += '"';
}

inline void write(std::string& json, const Id& id) {
  if (const auto* text = std::get_if<std::string>(&id))
    write(json, std::string_view(*text));
  else
    write(json, std::get<std::int64_t>(id));
}

// An array: element(i) writes element i.
template <class Element>
void write_array(std::string& json, std::size_t count, const Element& element) {
  json += '[';
  for (std::size_t i = 0; i < count; ++i) {
    if (i != 0) json += ',';
    element(i);
  }
  json += ']';
}

template <class Value>
void write(std::string& json, const std::vector<Value>& values) {
  write_array(json, values.size(), [&](std::size_t i) {
    if constexpr (std::is_integral_v<Value>)
      write(json, std::int64_t{values[i]});
    else if constexpr (std::is_floating_point_v<Value>)
      write(json, double{values[i]});
    else if constexpr (std::is_same_v<Value, std::string>)
      write(json, std::string_view(values[i]));
    else
      write(json, values[i]);
  });
}

// Adds a member to the inside of an object, and returns where its value goes.
inline std::string& write_key(std::string& members, std::string_view name) {
  if (!members.empty()) members += ',';
  write(members, name);
  return members += ':';
}

}  // namespace detail

// The top-k rule of a policy; see docs/format/policy.md.
struct TopK {
  std::size_t k = 1;
  bool ordered = false;
  std::vector<float> rise, fall;  // [exits - 1]
};

// Stopping rules that replace the bundle's; see docs/format/policy.md.
struct Policy {
  std::vector<float> upper, lower;  // [exits]; infinity: never
  std::size_t patience = 1;
  std::size_t quorum = 0;
  std::optional<TopK> top_k = std::nullopt;
  std::vector<std::size_t> keep = {};  // [exits], 0: no limit; or empty: no limits

  // The document for CallOptions. Throws std::invalid_argument for thresholds that are NaN, and for lists of different lengths.
  std::string json() const {
    if (lower.size() != upper.size() || (!keep.empty() && keep.size() != upper.size()))
      throw std::invalid_argument("policy has " + std::to_string(upper.size()) + " upper thresholds, " +
                                  std::to_string(lower.size()) + " lower ones and " + std::to_string(keep.size()) +
                                  " numbers to keep, expected one of each per exit");
    std::string text = "{\"patience\":" + std::to_string(patience) + ",\"quorum\":" + std::to_string(quorum) + ",\"exits\":";
    detail::write_array(text, upper.size(), [&](std::size_t k) {
      text += "{\"upper\":";
      detail::write(text, threshold(upper[k], k));
      text += ",\"lower\":";
      detail::write(text, threshold(lower[k], k));
      if (!keep.empty() && keep[k] != 0) text += ",\"keep\":" + std::to_string(keep[k]);
      text += '}';
    });
    if (top_k) {
      text += ",\"top_k\":{\"k\":" + std::to_string(top_k->k) + ",\"ordered\":" + (top_k->ordered ? "true" : "false");
      detail::write(text += ",\"rise\":", top_k->rise);
      detail::write(text += ",\"fall\":", top_k->fall);
      text += '}';
    }
    return text += '}';
  }

 private:
  static double threshold(float value, std::size_t exit) {
    if (std::isnan(value)) throw std::invalid_argument("policy: a threshold of exit " + std::to_string(exit) + " is NaN");
    return std::max(value, std::numeric_limits<float>::lowest());  // which every c exceeds, as it does -infinity
  }
};

// The value of an {input.NAME}: a number, a text or token ids.
using Input = std::variant<double, std::string, std::vector<std::int32_t>>;

// A prompt as token ids.
struct Tokens {
  std::vector<std::int32_t> prefix;
  std::vector<std::vector<std::int32_t>> candidates;
};

// Writes a request; docs/format/request.md lists its fields. Setters return *this, for chaining; each is called once at most,
// except input() and scores(). The library checks everything when the request is scored.
class Request {
 public:
  // For a user; items() or retrieve() says what is scored.
  explicit Request(const Id& user) { detail::write(field("user"), user); }
  // A prompt as token ids: no items, retrieve, recent, as_of or input.
  explicit Request(const Tokens& tokens) {
    if (!tokens.prefix.empty()) detail::write(field("prefix"), tokens.prefix);
    detail::write(field("candidates"), tokens.candidates);
  }
  // Texts, UTF-8, for a bundle whose rexit_bundle_info::takes_texts is 1: no items, retrieve, recent, as_of or input.
  Request(std::string_view query, const std::vector<std::string>& documents) {
    detail::write(field("query"), query);
    detail::write(field("documents"), documents);
  }

  Request& items(const std::vector<Id>& ids) { return detail::write(field("items"), ids), *this; }
  // In place of items(): so many items, which the catalog's embeddings choose. Session::item() says which.
  Request& retrieve(std::size_t count) { return detail::write(field("retrieve"), static_cast<std::int64_t>(count)), *this; }
  // Interactions newer than the catalog's, oldest first; `liked` empty: all liked. Throws std::invalid_argument for lists of
  // different lengths.
  Request& recent(const std::vector<Id>& ids, const std::vector<std::uint8_t>& liked = {}) {
    if (!liked.empty() && liked.size() != ids.size())
      throw std::invalid_argument("recent has " + std::to_string(ids.size()) + " items and " + std::to_string(liked.size()) +
                                  " verdicts, expected one verdict per item");
    std::string& json = field("recent");
    detail::write_array(json, ids.size(), [&](std::size_t i) {
      const bool is_disliked = !liked.empty() && liked[i] == 0;
      if (is_disliked) json += '[';
      detail::write(json, ids[i]);
      if (is_disliked) json += ",false]";
    });
    return *this;
  }
  Request& as_of(std::int64_t time) { return detail::write(field("as_of"), time), *this; }
  // The value of {input.NAME}, one call for each name. Throws std::invalid_argument for a number that is not finite.
  Request& input(std::string_view name, const Input& value) {
    if (const auto* number = std::get_if<double>(&value)) require_finite("inputs." + std::string(name), *number);
    std::string& json = detail::write_key(inputs_, name);
    std::visit([&](const auto& of_kind) { write_input(json, of_kind); }, value);
    return *this;
  }
  // A first stage's numbers, one for each candidate, NaN where there is none; one call for each name. Throws
  // std::invalid_argument for an infinite number.
  Request& scores(std::string_view name, const std::vector<float>& numbers) {
    for (const float number : numbers)
      if (std::isinf(number))
        throw std::invalid_argument("scores." + std::string(name) + " has an infinite number, expected finite ones or NaN");
    return detail::write(detail::write_key(scores_, name), numbers), *this;
  }
  Request& top_k(std::size_t k) { return detail::write(field("top_k"), static_cast<std::int64_t>(k)), *this; }
  // Leaves out candidates below the policy's floor. The answer may be empty.
  Request& floor() { return field("floor") += "true", *this; }
  // Throws std::invalid_argument for a number that is not finite.
  Request& deadline_ms(double milliseconds) {
    require_finite("deadline_ms", milliseconds);
    return detail::write(field("deadline_ms"), milliseconds), *this;
  }
  Request& force_exit(std::size_t exit) { return detail::write(field("force_exit"), static_cast<std::int64_t>(exit)), *this; }

  std::string json() const {
    std::string fields = fields_;
    if (!inputs_.empty()) ((detail::write_key(fields, "inputs") += '{') += inputs_) += '}';
    if (!scores_.empty()) ((detail::write_key(fields, "scores") += '{') += scores_) += '}';
    return '{' + fields + '}';
  }

 private:
  static void require_finite(const std::string& name, double number) {
    if (!std::isfinite(number)) throw std::invalid_argument(name + " is infinite or NaN, expected a finite number");
  }
  static void write_input(std::string& json, double number) { detail::write(json, number); }
  static void write_input(std::string& json, const std::string& text) { detail::write(json, std::string_view(text)); }
  static void write_input(std::string& json, const std::vector<std::int32_t>& tokens) { detail::write(json, tokens); }

  std::string& field(std::string_view name) { return detail::write_key(fields_, name); }

  std::string fields_, inputs_, scores_;  // insides of objects
};

// What the caller of a request decides; see rexit_call_options.
struct CallOptions {
  std::int64_t waited_us = 0;
  std::int64_t deadline_us = 0;  // 0: none
  std::string policy = {};       // as Policy::json() writes it; empty: the bundle's
  std::optional<std::uint32_t> force_exit = std::nullopt;
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
  std::string decision;          // empty: scores stop where the policy says of the trace
  std::vector<float> trace;      // [candidates, exits]
};

// A request's token ids; see rexit_prompt.
struct Prompt {
  std::vector<std::int32_t> tokens;
  std::vector<std::size_t> ends;  // of the prefix and of each candidate
};

// Buffers and cached prefixes. Only one thread at a time may use it, except that any thread may call cancel(), memory()
// and segments() at any time. Keeps the bundle alive.
class Session {
 public:
  // `cache_bytes`: limit for cached prefixes; 0: 32 MiB. `slate_bytes`: limit for a slate's hidden states; 0: 256 MiB.
  explicit Session(const Bundle& bundle, std::size_t cache_bytes = 0, std::size_t slate_bytes = 0) : bundle_(bundle) {
    rexit_session_options options{};
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

  // `request`: what Request::json() writes, or a document of the caller's.
  Scores score(std::string_view request, const CallOptions& options = {}) {
    const rexit_call_options c_options = view(options);
    Scores result;
    const rexit_score* scores = nullptr;
    std::size_t count = 0;
    check(rexit_session_score(handle_.get(), request.data(), request.size(), &c_options, &scores, &count, &result.stats));
    result.scores.assign(scores, scores + count);
    return result;
  }
  Scores score(const Request& request, const CallOptions& options = {}) { return score(request.json(), options); }
  Scores rerank(std::string_view query, const std::vector<std::string>& documents, const CallOptions& options = {}) {
    return score(Request(query, documents), options);
  }

  // The same with an answer in JSON.
  JsonAnswer score_json(std::string_view request, const CallOptions& options = {}) {
    const rexit_call_options c_options = view(options);
    const char* answer = nullptr;
    std::size_t bytes = 0;
    JsonAnswer result;
    check(rexit_session_score_json(handle_.get(), request.data(), request.size(), &c_options, &answer, &bytes, &result.stats));
    result.text.assign(answer, bytes);
    return result;
  }

  Trace trace(std::string_view request) {
    Trace result;
    const float* log_odds = nullptr;
    std::size_t count = 0;
    check(rexit_session_trace(handle_.get(), request.data(), request.size(), &log_odds, &count, &result.stats));
    result.log_odds.assign(log_odds, log_odds + count * bundle_.info().exits);
    return result;
  }
  Trace trace(const Request& request) { return trace(request.json()); }

  // The item's id of a candidate of the last score, score_json, trace or prompt; of a prompt as token ids, its number. See
  // rexit_session_get_item.
  Id item(std::size_t candidate) const {
    const auto id =
        detail::read<rexit_item_id>([&](rexit_item_id* out) { return rexit_session_get_item(handle_.get(), candidate, out); });
    return id.text == nullptr ? Id(id.number) : Id(std::string(id.text, id.text_bytes));
  }

  // Checks golden sample number `slate`. See rexit_session_check_golden.
  GoldenCheck check_golden(std::size_t slate) {
    const auto check_out = detail::read<rexit_golden_check>(
        [&](rexit_golden_check* out) { return rexit_session_check_golden(handle_.get(), slate, out); });
    GoldenCheck result{check_out.slate_count, check_out.candidate_count, check_out.tolerance, check_out.worst,
                       check_out.prompt,      check_out.log_odds,        check_out.decision,  {}};
    result.trace.assign(check_out.trace, check_out.trace + check_out.candidate_count * bundle_.info().exits);
    return result;
  }

  Prompt prompt(std::string_view request) {
    const auto prompt = detail::read<rexit_prompt>(
        [&](rexit_prompt* out) { return rexit_session_prompt(handle_.get(), request.data(), request.size(), out); });
    Prompt result;
    result.ends.assign(prompt.ends, prompt.ends + 1 + prompt.candidate_count);
    result.tokens.assign(prompt.tokens, prompt.tokens + result.ends.back());
    return result;
  }
  Prompt prompt(const Request& request) { return prompt(request.json()); }

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
  static rexit_call_options view(const CallOptions& options) {
    return {options.waited_us,     options.deadline_us,        options.policy.empty() ? nullptr : options.policy.data(),
            options.policy.size(), options.force_exit ? 1 : 0, options.force_exit.value_or(0)};
  }

  struct Destroy {
    void operator()(rexit_session* session) const noexcept { rexit_session_destroy(session); }
  };

  Bundle bundle_;
  std::unique_ptr<rexit_session, Destroy> handle_;
};

}  // namespace rexit

#endif  // REXIT_REXIT_HPP

// rexit._native: rexit.hpp for Python, with its structs. runtime/session.py adds checks and NumPy conveniences.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <variant>

#include "library.hpp"
#include "rexit/rexit.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T, class... Shape>
using Array = nb::ndarray<nb::numpy, T, Shape...>;
using Floats = Array<float, nb::ndim<1>>;
using Matrix = Array<float, nb::ndim<2>>;

// The array owns the vector.
template <class T, class Element, class... Shape>
T to_numpy(std::vector<Element> values, Shape... shape) {
  auto* vector = new std::vector<Element>(std::move(values));
  const nb::capsule owner(vector, [](void* pointer) noexcept { delete static_cast<std::vector<Element>*>(pointer); });
  return T(vector->data(), {shape...}, owner);
}

template <class T, class Element>
Array<T, nb::ndim<1>> to_array(std::vector<Element> values) {
  const std::size_t count = values.size();
  return to_numpy<Array<T, nb::ndim<1>>>(std::move(values), count);
}

// [candidates, exits]
Matrix by_exit(const std::vector<float>& log_odds, std::size_t exits) {
  return to_numpy<Matrix>(log_odds, log_odds.size() / exits, exits);
}

// rexit_bundle_info with strings in place of pointers into the bundle.
struct Info : rexit_bundle_info {
  std::string variant, policy_sha256;
  std::vector<std::string> scores;
};

// A property: a number that is 0 or 1, as a bool.
auto flag(std::int32_t rexit_bundle_info::* member) {
  return [member](const Info& info) { return info.*member != 0; };
}

// What a request cost, and what each segment did for it.
struct Stats : rexit_stats {
  std::vector<rexit_segment_stats> segments;
};

template <class Answer>
struct WithStats : Answer {
  Stats all_stats;
  std::size_t exits;
  std::vector<rexit::Id> items;  // of scores or of a trace's rows
  bool texts;                    // whether the catalog's ids are
};
using Scores = WithStats<rexit::Scores>;
using Trace = WithStats<rexit::Trace>;
using JsonAnswer = WithStats<rexit::JsonAnswer>;

// The candidates' ids, in the order of an answer's scores or of a trace.
std::vector<rexit::Id> items_of(const rexit::Scores& answer, const rexit::Session& session) {
  std::vector<rexit::Id> items;
  for (const rexit_score& score : answer.scores) items.push_back(session.item(score.item));
  return items;
}
std::vector<rexit::Id> items_of(const rexit::Trace& answer, const rexit::Session& session) {
  std::vector<rexit::Id> items;
  for (std::size_t i = 0; i < answer.stats.candidates; ++i) items.push_back(session.item(i));
  return items;
}
std::vector<rexit::Id> items_of(const rexit::JsonAnswer&, const rexit::Session&) { return {}; }

// int64 [n], or a list of texts.
template <class Answer>
nb::object items(const Answer& answer) {
  const bool are_texts =
      answer.items.empty() ? answer.texts : std::holds_alternative<std::string>(answer.items.front());  // token ids have numbers
  if (are_texts) return nb::cast(answer.items);
  std::vector<std::int64_t> numbers;
  for (const rexit::Id& id : answer.items) numbers.push_back(std::get<std::int64_t>(id));
  return nb::cast(to_array<std::int64_t>(std::move(numbers)));
}

struct GoldenCheck : rexit::GoldenCheck {
  std::size_t exits;
};

// A property: get(score) of every score, as an array of `T`.
template <class T, class Get>
auto column(Get get) {
  return [get](const Scores& answer) {
    std::vector<std::conditional_t<std::is_same_v<T, bool>, std::uint8_t, T>> values;
    for (const rexit_score& score : answer.scores) values.push_back(get(score));
    if constexpr (std::is_same_v<T, bool>) {
      auto* vector = new std::vector<std::uint8_t>(std::move(values));
      const nb::capsule owner(vector, [](void* pointer) noexcept { delete static_cast<std::vector<std::uint8_t>*>(pointer); });
      return Array<bool, nb::ndim<1>>(reinterpret_cast<bool*>(vector->data()), {vector->size()}, owner);
    } else {
      return to_array<T>(std::move(values));
    }
  };
}

// -1: no answer.
std::int64_t exit_number(const rexit_score& score) { return score.exit == REXIT_NO_EXIT ? -1 : std::int64_t{score.exit}; }

// rexit_exit_info with lists in place of pointers.
struct ExitInfo : rexit_exit_info {
  std::vector<float> earlier;
};

struct SessionOptions {
  std::size_t cache_bytes, slate_bytes;
};

// Passes a line to the Python logger `rexit`. It may come from any thread, with or without the GIL.
void forward_log(void*, rexit_log_level level, const char* line) {
  const nb::gil_scoped_acquire gil;
  try {
    constexpr int step = 10;  // logging.DEBUG is 10, INFO 20, WARNING 30, ERROR 40
    nb::module_::import_("logging").attr("getLogger")("rexit").attr("log")(step * (static_cast<int>(level) + 1), "%s",
                                                                           nb::str(line));
  } catch (nb::python_error& error) {  // from a handler; the caller must not see it
    error.discard_as_unraisable("rexit's log");
  }
}

// rexit::Session with a lock: Python threads that share a session wait for each other instead of getting an error. Functions that
// any thread may call at any time do not lock.
class Session {
  // Returns use(session, microseconds that it waited), without the GIL and while no other thread uses the session.
  template <class Use>
  auto locked(const Use& use) {
    using Clock = std::chrono::steady_clock;
    const nb::gil_scoped_release no_gil;
    const Clock::time_point begin = Clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    return use(session_, std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
  }

  // The answer of use(session, text, options), whose deadline counts while another thread uses the session.
  template <class Use>
  auto answer(const nb::bytes& request, rexit::CallOptions options, const Use& use) {
    const std::string_view text(request.c_str(), request.size());
    return locked([&](rexit::Session& session, std::int64_t waited_us) {
      options.waited_us += waited_us;
      auto answer = use(session, text, options);
      const Stats stats{answer.stats, session.segments()};
      std::vector<rexit::Id> ids = items_of(answer, session);
      const rexit_bundle_info info = session.bundle().info();
      return WithStats<decltype(answer)>{std::move(answer), stats, info.exits, std::move(ids), info.string_item_ids != 0};
    });
  }

 public:
  Session(const rexit::Bundle& bundle, const SessionOptions& options)
      : session_(bundle, options.cache_bytes, options.slate_bytes), options_(options) {}

  // Other Python threads run while this frees memory: the whole bundle's, if this is its last session.
  ~Session() {
    const nb::gil_scoped_release no_gil;
    const rexit::Session session = std::move(session_);
  }

  Session* another() const {
    const nb::gil_scoped_release no_gil;
    return new Session(session_.bundle(), options_);
  }

  // Null: the folder has not changed.
  Session* reloaded() const {
    const nb::gil_scoped_release no_gil;
    const std::optional<rexit::Bundle> next = session_.bundle().reloaded();
    return next ? new Session(*next, options_) : nullptr;
  }

  nb::bytes read_file(const std::string& path) const {
    std::string contents;
    {
      const nb::gil_scoped_release no_gil;
      contents = session_.bundle().read_file(path);
    }
    return nb::bytes(contents.data(), contents.size());
  }

  Info info() const {
    const rexit_bundle_info info = session_.bundle().info();
    return {info, info.variant, info.policy_sha256, {info.score_names, info.score_names + info.scores}};
  }

  std::vector<ExitInfo> exits() const {
    std::vector<ExitInfo> exits;
    const std::size_t count = session_.bundle().info().exits;
    for (std::size_t k = 0; k < count; ++k) {
      const rexit_exit_info exit = session_.bundle().exit(k);
      ExitInfo& info = exits.emplace_back(ExitInfo{exit, {}});
      if (exit.earlier != nullptr) info.earlier.assign(exit.earlier, exit.earlier + k);
    }
    return exits;
  }

  Scores score(const nb::bytes& request, const rexit::CallOptions& options) {
    return answer(request, options, [](auto& session, auto text, const auto& own) { return session.score(text, own); });
  }

  JsonAnswer score_json(const nb::bytes& request, const rexit::CallOptions& options) {
    return answer(request, options, [](auto& session, auto text, const auto& own) { return session.score_json(text, own); });
  }

  Trace trace(const nb::bytes& request) {
    return answer(request, {}, [](auto& session, auto text, const auto&) { return session.trace(text); });
  }

  rexit::Prompt prompt(const nb::bytes& request) {
    const std::string_view text(request.c_str(), request.size());
    return locked([&](rexit::Session& session, std::int64_t) { return session.prompt(text); });
  }

  GoldenCheck check_golden(std::size_t slate) {
    return locked([&](rexit::Session& session, std::int64_t) {
      return GoldenCheck{session.check_golden(slate), session.bundle().info().exits};
    });
  }

  void warm_up() {
    locked([](rexit::Session& session, std::int64_t) { session.warm_up(); });
  }

  void clear_cache() {
    locked([](rexit::Session& session, std::int64_t) { session.clear_cache(); });
  }

  void trim() {
    locked([](rexit::Session& session, std::int64_t) { session.trim(); });
  }

  rexit_memory memory() {
    const nb::gil_scoped_release no_gil;
    return session_.memory();
  }

  void cancel() {
    const nb::gil_scoped_release no_gil;
    session_.cancel();
  }

 private:
  rexit::Session session_;
  SessionOptions options_;
  std::mutex mutex_;
};

// The class of rexit.errors for a status.
const char* class_of(rexit_status status) {
  if (status == REXIT_DEADLINE) return "DeadlineError";
  if (status == REXIT_CANCELLED) return "CancelledError";
  if (status / 100 == 1 || status == REXIT_TOO_LONG) return "InputError";
  if (status / 100 == 2) return "BundleError";
  if (status / 100 == 3) return "BackendError";
  return "RexitError";
}

void raise(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const rexit::Error& error) {
    rexit::python::set_error(error.status(), error.what());
  }
}

// What a caller passes.
void bind_options(nb::module_& module) {
  nb::class_<rexit::CallOptions>(module, "CallOptions", "What the caller of a request decides; see `rexit_call_options`.")
      .def(nb::init<std::int64_t, std::int64_t, std::string, std::optional<std::uint32_t>>(), "waited_us"_a, "deadline_us"_a,
           "policy"_a, "force_exit"_a.none());
  nb::class_<rexit::BundleOptions>(module, "BundleOptions")
      .def(nb::init<>())
      .def_rw("variant", &rexit::BundleOptions::variant)
      .def_rw("onnxruntime_library", &rexit::BundleOptions::onnxruntime_library)
      .def_rw("threads", &rexit::BundleOptions::threads)
      .def_rw("device", &rexit::BundleOptions::device)
      .def_rw("device_id", &rexit::BundleOptions::device_id)
      .def_rw("provider", &rexit::BundleOptions::provider)
      .def_rw("provider_options", &rexit::BundleOptions::provider_options);
  nb::class_<SessionOptions>(module, "SessionOptions")
      .def(nb::init<std::size_t, std::size_t>(), "cache_bytes"_a, "slate_bytes"_a);
}

nb::dict stats_to_dict(const Stats& stats) {
  nb::dict values;
  values["prefix_tokens"] = stats.prefix_tokens;
  values["prefix_tokens_reused"] = stats.prefix_tokens_reused;
  values["candidate_tokens"] = stats.candidate_tokens;
  values["candidate_layers"] = stats.candidate_layers;
  values["prefix_layers"] = stats.prefix_layers;
  values["retrieval_us"] = stats.retrieval_us;
  values["prefix_us"] = stats.prefix_us;
  values["slate_us"] = stats.slate_us;
  values["total_us"] = stats.total_us;
  return values;
}

// What a session says.
void bind_answers(nb::module_& module) {
  constexpr auto owner = nb::rv_policy::automatic;  // an array has its own
  nb::class_<Info>(module, "Info", "What an opened bundle holds.")
      .def_ro("users", &rexit_bundle_info::users, "Users in the catalog.")
      .def_ro("items", &rexit_bundle_info::items, "Items in the catalog.")
      .def_ro("exits", &rexit_bundle_info::exits, "Exits of the model, with exit zero if the bundle has it.")
      .def_ro("layers", &rexit_bundle_info::layers, "Layers of the model.")
      .def_ro("max_tokens", &rexit_bundle_info::max_tokens, "Most candidate tokens in one pass.")
      .def_ro("max_positions", &rexit_bundle_info::max_positions, "Most tokens of a prefix and one candidate.")
      .def_prop_ro("string_user_ids", flag(&rexit_bundle_info::string_user_ids),
                   "Whether user ids are strings; else they are integers.")
      .def_prop_ro("string_item_ids", flag(&rexit_bundle_info::string_item_ids), "The same for items.")
      .def_prop_ro("calibrated", flag(&rexit_bundle_info::calibrated), "Whether the variant has a policy.")
      .def_ro("variant", &Info::variant, "Name of the variant.")
      .def_ro("top_k", &rexit_bundle_info::top_k, "k of the policy's top-k rule; 0: no such rule.")
      .def_prop_ro("ordered", flag(&rexit_bundle_info::ordered), "Whether that rule settles the order of the first k as well.")
      .def_ro("quorum", &rexit_bundle_info::quorum,
              "So many candidates of a slate, or fewer, the policy stops together; 0: no such rule.")
      .def_ro("vocabulary", &rexit_bundle_info::vocabulary, "Token ids of a request are below this.")
      .def_prop_ro("has_catalog", flag(&rexit_bundle_info::has_catalog),
                   "Whether requests may name users and items; else they are token ids.")
      .def_prop_ro("takes_texts", flag(&rexit_bundle_info::takes_texts), "Whether requests may be `query` and `documents`.")
      .def_ro("prior_shift", &rexit_bundle_info::prior_shift,
              "probability = sigmoid(c + prior_shift): where negatives were sampled, it is that in the population.")
      .def_ro("segments", &rexit_bundle_info::segments, "Segments of the model: as many as exits, or one less with exit zero.")
      .def_ro("scores", &Info::scores,
              "Names of the first stages' `scores` that exit zero reads, of which requests must have some; empty: none.")
      .def_ro("rounding", &rexit_bundle_info::rounding,
              "How far a score's log-odds may be from those of a trace; relative above 1.")
      .def_ro("max_candidates", &rexit_bundle_info::max_candidates, "The most candidates of a request.")
      .def_ro("policy_sha256", &Info::policy_sha256, "Digest of the variant's policy.json; empty without a policy.");
  nb::class_<ExitInfo>(module, "ExitInfo",
                       "One exit and its policy. c = a z + b, with z the raw log-odds, plus what earlier heads add; a candidate "
                       "stops at c >= upper or c <= -lower.")
      .def_ro("layers", &ExitInfo::layers, "Depth of the exit; 0: exit zero.")
      .def_ro("a", &ExitInfo::a, "Slope of the Platt map.")
      .def_ro("b", &ExitInfo::b, "Intercept of the Platt map.")
      .def_ro("upper", &ExitInfo::upper, "Threshold on c; inf: never.")
      .def_ro("lower", &ExitInfo::lower, "Threshold on -c; inf: never.")
      .def_ro("patience", &ExitInfo::patience, "How many heads in a row must agree on the sign of c before a candidate stops.")
      .def_ro("rise", &ExitInfo::rise, "How far c may still rise, for the top-k rule; 0: no such rule.")
      .def_ro("fall", &ExitInfo::fall, "How far c may still fall, for the top-k rule; 0: no such rule.")
      .def_ro("keep", &ExitInfo::keep, "How many candidates of a slate go on after this exit at most; 0: no limit.")
      .def_prop_ro(
          "earlier", [](const ExitInfo& exit) { return nb::tuple(nb::cast(exit.earlier)); },
          nb::sig("def earlier(self) -> tuple[float, ...]"),
          "Weights in c of the log-odds at the exits before this one; empty: they add nothing.");
  nb::class_<rexit_segment_stats>(module, "SegmentStats", "What one segment did in a request.")
      .def_ro("prefix_tokens", &rexit_segment_stats::prefix_tokens, "Prefix tokens computed, without those in the cache.")
      .def_ro("candidates", &rexit_segment_stats::candidates, "Candidates that went through it.")
      .def_ro("candidate_tokens", &rexit_segment_stats::candidate_tokens, "Tokens of those candidates.")
      .def_ro("prefix_us", &rexit_segment_stats::prefix_us, "Microseconds of its passes over the prefix.")
      .def_ro("slate_us", &rexit_segment_stats::slate_us, "Microseconds of its passes over candidates.");
  nb::class_<Stats>(module, "Stats", "What a request cost.")
      .def_ro("prefix_tokens", &Stats::prefix_tokens, "Tokens of the prefix.")
      .def_ro("prefix_tokens_reused", &Stats::prefix_tokens_reused, "Prefix tokens that were in the cache.")
      .def_ro("candidates", &Stats::candidates, "Candidates of the request.")
      .def_ro("cut_short", &Stats::cut_short, "Candidates that the deadline stopped.")
      .def_ro("candidate_tokens", &Stats::candidate_tokens, "Tokens of all candidates that enter the first segment.")
      .def_ro("candidate_layers", &Stats::candidate_layers, "Layers run, summed over candidates.")
      .def_ro("prefix_layers", &Stats::prefix_layers, "Layers that the prefix went through.")
      .def_ro("retrieval_us", &Stats::retrieval_us,
              "Microseconds of reading the request, of retrieval, of exit zero and of assembling the prompt.")
      .def_ro("prefix_us", &Stats::prefix_us, "Microseconds of the prefix.")
      .def_ro("slate_us", &Stats::slate_us, "Microseconds of the candidates.")
      .def_ro("total_us", &Stats::total_us, "Microseconds of the whole request.")
      .def_prop_ro(
          "known_user", [](const Stats& stats) { return stats.known_user != 0; },
          "Whether the catalog has the user. False for a new user, or a mistyped id.")
      .def_ro("segments", &Stats::segments, "One entry per segment.")
      .def("to_dict", stats_to_dict, nb::sig("def to_dict(self) -> dict[str, typing.Any]"),
           "Returns tokens, layers and microseconds of the whole request, as plain JSON values.");
  nb::class_<Scores>(module, "Scores", "Scores as arrays of n entries; `rexit.runtime.Scores` adds the items.")
      .def_prop_ro("items", items<Scores>, nb::sig("def items(self) -> numpy.typing.NDArray[numpy.int64] | list[str]"))
      .def_prop_ro("index", column<std::int64_t>([](const rexit_score& score) { return std::int64_t{score.item}; }), owner)
      .def_prop_ro("exit", column<std::int64_t>(exit_number), owner)
      .def_prop_ro("probability", column<float>([](const rexit_score& score) { return score.probability; }), owner)
      .def_prop_ro("log_odds", column<float>([](const rexit_score& score) { return score.log_odds; }), owner)
      .def_prop_ro("cut_short", column<bool>([](const rexit_score& score) { return std::uint8_t(score.cut_short != 0); }), owner)
      .def_ro("stats", &Scores::all_stats);
  nb::class_<JsonAnswer>(module, "JsonAnswer", "An answer in JSON.")
      .def_prop_ro(
          "text", [](const JsonAnswer& answer) { return nb::bytes(answer.text.data(), answer.text.size()); },
          "One line without a newline, UTF-8; `docs/format/request.md` lists its fields.")
      .def_ro("stats", &JsonAnswer::all_stats, "What the request cost.");
  nb::class_<Trace>(module, "Trace", "Every exit's raw log-odds.")
      .def_prop_ro(
          "log_odds", [](const Trace& trace) { return by_exit(trace.log_odds, trace.exits); }, owner, "float32 [items, exits].")
      .def_prop_ro("items", items<Trace>, nb::sig("def items(self) -> numpy.typing.NDArray[numpy.int64] | list[str]"),
                   "The candidates' ids, int64 [items] or texts.")
      .def_ro("stats", &Trace::all_stats, "What it cost to compute them.");
  nb::class_<rexit::Prompt>(module, "Prompt", "A request's token ids.")
      .def_prop_ro(
          "tokens", [](const rexit::Prompt& prompt) { return to_array<std::int32_t>(prompt.tokens); }, owner,
          "int32: of the prefix, then of each candidate.")
      .def_ro("ends", &rexit::Prompt::ends, "Where the prefix and each candidate end.");
  nb::class_<GoldenCheck>(module, "GoldenCheck", "A golden sample against what is computed here.")
      .def_ro("slates", &GoldenCheck::slates, "Golden samples of the variant.")
      .def_ro("tolerance", &GoldenCheck::tolerance, "The largest difference of log-odds that the variant allows.")
      .def_ro("worst", &GoldenCheck::worst, "The largest one of this sample; inf if log-odds are not finite.")
      .def_ro("prompt", &GoldenCheck::prompt, "Where its prompt first differs from the recorded one, as a line; empty: nowhere.")
      .def_ro("log_odds", &GoldenCheck::log_odds,
              "Where the largest difference of log-odds is, as a line; empty: within the tolerance.")
      .def_ro("decision", &GoldenCheck::decision,
              "Where a score, with a cold or a warm prefix, first stopped elsewhere than the policy says of the trace, or with "
              "other log-odds, as a line; empty: nowhere.")
      .def_prop_ro(
          "trace", [](const GoldenCheck& check) { return by_exit(check.trace, check.exits); }, owner,
          "The log-odds here, as `Session.trace` returns them.");
  nb::class_<rexit_memory>(module, "Memory", "Bytes in use, without ONNX Runtime's.")
      .def_ro("prefixes", &rexit_memory::prefixes, "The session's cached prefixes, which `cache_bytes` bounds.")
      .def_ro("buffers", &rexit_memory::buffers, "The session's other buffers.")
      .def_ro("pinned", &rexit_memory::pinned,
              "The start that all prefixes of the bundle share. Held once for all its sessions, in addition to their "
              "`cache_bytes`.")
      .def_ro("gpu", &rexit_memory::gpu,
              "With TensorRT, GPU memory for this session's passes; compiled, not run. Its prefixes and hidden states are in GPU "
              "memory, too. 0 with ONNX Runtime.");
}

}  // namespace

void rexit::python::set_error(rexit_status status, const char* message) {
  const nb::object type = nb::module_::import_("rexit.errors").attr(class_of(status));
  const nb::object exception = type(message);
  exception.attr("status") = rexit_status_name(status);
  PyErr_SetObject(type.ptr(), exception.ptr());
}

NB_MODULE(_native, module) {
  nb::register_exception_translator(raise);
  module.attr("version") = rexit_version();
  rexit_set_log(forward_log, nullptr, REXIT_LOG_DEBUG);
  // ONNX Runtime's threads still run while the interpreter exits, when nothing may call into it.
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] { rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR); }));
  module.def(
      "verify",
      [](const std::string& path, const std::string& variant) {
        const nb::gil_scoped_release no_gil;
        rexit::verify(path, variant);
      },
      "path"_a, "variant"_a);
  bind_options(module);
  bind_answers(module);
  rexit::python::bind_library(module);
  nb::class_<Session>(module, "Session")
      .def(
          "__init__",
          [](Session* self, const std::string& path, const rexit::BundleOptions& options, const SessionOptions& session_options) {
            const nb::gil_scoped_release no_gil;
            new (self) Session(rexit::Bundle(path, options), session_options);
          },
          "path"_a, "options"_a, "session_options"_a)
      .def("another", &Session::another, nb::rv_policy::take_ownership)
      .def("reloaded", &Session::reloaded, nb::rv_policy::take_ownership)
      .def("read_file", &Session::read_file, "path"_a)
      .def("info", &Session::info)
      .def("exits", &Session::exits)
      .def("score", &Session::score, "request"_a, "options"_a)
      .def("score_json", &Session::score_json, "request"_a, "options"_a)
      .def("trace", &Session::trace, "request"_a)
      .def("prompt", &Session::prompt, "request"_a)
      .def("check_golden", &Session::check_golden, "slate"_a)
      .def("warm_up", &Session::warm_up)
      .def("clear_cache", &Session::clear_cache)
      .def("trim", &Session::trim)
      .def("cancel", &Session::cancel)
      .def("memory", &Session::memory);
}

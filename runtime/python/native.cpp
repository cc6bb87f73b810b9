// rexit._native: rexit.hpp for Python, with its structs. runtime/session.py adds checks and NumPy conveniences.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

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

template <class T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <class T>
using InArray = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The array owns the vector.
template <class T>
Array<T> to_numpy(std::vector<T> values) {
  auto* vector = new std::vector<T>(std::move(values));
  const nb::capsule owner(vector, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Array<T>(vector->data(), {vector->size()}, owner);
}

// A property: a vector of `Struct` as an array.
template <class Struct, class Base, class T>
auto array(std::vector<T> Base::* member) {
  return [member](const Struct& object) { return to_numpy(object.*member); };
}

// A property: a number that is 0 or 1, as a bool.
template <class Struct>
auto flag(std::int32_t Struct::* member) {
  return [member](const Struct& object) { return object.*member != 0; };
}

// An answer, and what each segment did for it.
template <class Answer>
struct WithSegments : Answer {
  std::vector<rexit_segment_stats> segments;
};
using Scores = WithSegments<rexit::Scores>;
using Trace = WithSegments<rexit::Trace>;
using JsonAnswer = WithSegments<rexit::JsonAnswer>;

// A property: get(score) of every score, as an array.
template <class Get>
auto column(Get get) {
  return [get](const Scores& answer) {
    std::vector<decltype(get(rexit_score{}))> values;
    for (const rexit_score& score : answer.scores) values.push_back(get(score));
    return to_numpy(std::move(values));
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

rexit::Tokens make_tokens(const InArray<std::int32_t>& prefix, const InArray<std::int32_t>& candidates,
                          const InArray<std::uint64_t>& counts) {
  return {{prefix.data(), prefix.data() + prefix.size()},
          {candidates.data(), candidates.data() + candidates.size()},
          {counts.data(), counts.data() + counts.size()}};
}

// A bundle's path, or its archive in memory.
using Place = std::variant<std::string, nb::bytes>;

// Calls use(path or archive), without the GIL. An archive keeps the bytes.
template <class Use>
void with_place(const Place& place, const Use& use) {
  if (const auto* path = std::get_if<std::string>(&place)) {
    const nb::gil_scoped_release no_gil;
    return use(*path);
  }
  const nb::bytes& bytes = std::get<nb::bytes>(place);
  std::shared_ptr<const void> owner(bytes.inc_ref().ptr(), [](const void* object) {
    const nb::gil_scoped_acquire gil;  // the last session may close in any thread
    nb::handle(static_cast<PyObject*>(const_cast<void*>(object))).dec_ref();
  });
  const rexit::Archive archive{bytes.c_str(), bytes.size(), std::move(owner)};
  const nb::gil_scoped_release no_gil;
  use(archive);
}

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
  // Returns use(session), without the GIL and while no other thread uses the session.
  template <class Use>
  auto locked(const Use& use) {
    const nb::gil_scoped_release no_gil;
    const std::lock_guard<std::mutex> lock(mutex_);
    return use(session_);
  }

  template <class Use>
  auto with_segments(const Use& use) {
    return locked([&](rexit::Session& session) {
      auto answer = use(session);
      return WithSegments<decltype(answer)>{std::move(answer), session.segments()};
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

  Session* another() const { return new Session(session_.bundle(), options_); }

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

  rexit_bundle_info info() const { return session_.bundle().info(); }

  std::vector<ExitInfo> exits() const {
    std::vector<ExitInfo> exits;
    const rexit_bundle_info bundle = info();
    for (std::size_t k = 0; k < bundle.exits; ++k) {
      const rexit_exit_info exit = session_.bundle().exit(k);
      ExitInfo& info = exits.emplace_back(ExitInfo{exit, {}});
      if (exit.earlier != nullptr) info.earlier.assign(exit.earlier, exit.earlier + k);
    }
    return exits;
  }

  Scores score(const rexit::Request& request) {
    return with_segments([&](rexit::Session& session) { return session.score(request); });
  }

  JsonAnswer score_json(const nb::bytes& request, const rexit::JsonOptions& options) {
    const std::string_view text(request.c_str(), request.size());
    return with_segments([&](rexit::Session& session) { return session.score_json(text, options); });
  }

  Trace trace(const rexit::Request& request) {
    return with_segments([&](rexit::Session& session) { return session.trace(request); });
  }

  rexit::Prompt prompt(const rexit::Request& request) {
    return locked([&](rexit::Session& session) { return session.prompt(request); });
  }

  rexit::GoldenCheck check_golden(std::size_t slate) {
    return locked([&](rexit::Session& session) { return session.check_golden(slate); });
  }

  void warm_up() {
    locked([](rexit::Session& session) { session.warm_up(); });
  }

  void clear_cache() {
    locked([](rexit::Session& session) { session.clear_cache(); });
  }

  void trim() {
    locked([](rexit::Session& session) { session.trim(); });
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
    const nb::object type = nb::module_::import_("rexit.errors").attr(class_of(error.status()));
    const nb::object exception = type(error.what());
    exception.attr("status") = rexit_status_name(error.status());
    PyErr_SetObject(type.ptr(), exception.ptr());
  } catch (const std::invalid_argument& error) {  // rexit.hpp refuses it before the library is called
    PyErr_SetString(nb::module_::import_("rexit.errors").attr("InputError").ptr(), error.what());
  }
}

// What a caller passes.
void bind_requests(nb::module_& module) {
  nb::class_<rexit::TopK>(module, "TopK")
      .def(nb::init<std::size_t, bool, std::vector<float>, std::vector<float>>(), "k"_a, "ordered"_a, "rise"_a, "fall"_a);
  nb::class_<rexit::Policy>(module, "Policy")
      .def(nb::init<std::vector<float>, std::vector<float>, std::size_t, std::size_t, std::optional<rexit::TopK>,
                    std::vector<std::size_t>>(),
           "upper"_a, "lower"_a, "patience"_a, "quorum"_a, "top_k"_a.none(), "keep"_a);
  nb::class_<rexit::Tokens>(module, "Tokens")
      .def(
          "__init__",
          [](rexit::Tokens* self, const InArray<std::int32_t>& prefix, const InArray<std::int32_t>& candidates,
             const InArray<std::uint64_t>& counts) { new (self) rexit::Tokens(make_tokens(prefix, candidates, counts)); },
          "prefix"_a, "candidates"_a, "counts"_a);
  constexpr auto self = nb::rv_policy::none;  // setters return the object that Python has already
  nb::class_<rexit::Request>(module, "Request")
      .def(nb::init<rexit::Id>(), "user"_a)
      .def(nb::init<rexit::Tokens>(), "tokens"_a)
      .def("items", &rexit::Request::items, "ids"_a, self)
      .def("recent", &rexit::Request::recent, "ids"_a, "liked"_a, self)
      .def("as_of", &rexit::Request::as_of, "time"_a, self)
      .def("input", &rexit::Request::input, "name"_a, "value"_a, self)
      .def("scores", &rexit::Request::scores, "numbers"_a, self)
      .def("policy", &rexit::Request::policy, "policy"_a, self)
      .def("force_exit", &rexit::Request::force_exit, "exit"_a, self)
      .def("deadline_us", &rexit::Request::deadline_us, "microseconds"_a, self)
      .def("top_k", nb::overload_cast<std::size_t>(&rexit::Request::top_k), "k"_a, self);
  nb::class_<rexit::JsonOptions>(module, "JsonOptions")
      .def(nb::init<std::int64_t, std::int64_t, std::optional<rexit::Policy>, std::optional<std::uint32_t>,
                    std::vector<std::pair<std::string, std::vector<std::int32_t>>>>(),
           "waited_us"_a, "deadline_us"_a, "policy"_a.none(), "force_exit"_a.none(), "texts"_a);
  nb::enum_<rexit_spinning>(module, "Spinning")
      .value("DEFAULT", REXIT_SPINNING_DEFAULT)
      .value("ON", REXIT_SPINNING_ON)
      .value("OFF", REXIT_SPINNING_OFF);
  nb::class_<rexit::BundleOptions>(module, "BundleOptions")
      .def(nb::init<>())
      .def_rw("variant", &rexit::BundleOptions::variant)
      .def_rw("onnxruntime_library", &rexit::BundleOptions::onnxruntime_library)
      .def_rw("threads", &rexit::BundleOptions::threads)
      .def_rw("device", &rexit::BundleOptions::device)
      .def_rw("device_id", &rexit::BundleOptions::device_id)
      .def_rw("provider", &rexit::BundleOptions::provider)
      .def_rw("provider_options", &rexit::BundleOptions::provider_options)
      .def_rw("own_threads", &rexit::BundleOptions::own_threads)
      .def_rw("spinning", &rexit::BundleOptions::spinning);
  nb::class_<SessionOptions>(module, "SessionOptions")
      .def(nb::init<std::size_t, std::size_t>(), "cache_bytes"_a, "slate_bytes"_a);
}

// What a session says. Names of fields are those of the classes in _answers.py.
void bind_answers(nb::module_& module) {
  constexpr auto owner = nb::rv_policy::automatic;  // an array has its own
  nb::class_<rexit_bundle_info>(module, "Info")
      .def_ro("users", &rexit_bundle_info::users)
      .def_ro("items", &rexit_bundle_info::items)
      .def_ro("exits", &rexit_bundle_info::exits)
      .def_ro("layers", &rexit_bundle_info::layers)
      .def_ro("max_tokens", &rexit_bundle_info::max_tokens)
      .def_ro("max_positions", &rexit_bundle_info::max_positions)
      .def_prop_ro("string_user_ids", flag(&rexit_bundle_info::string_user_ids))
      .def_prop_ro("string_item_ids", flag(&rexit_bundle_info::string_item_ids))
      .def_prop_ro("calibrated", flag(&rexit_bundle_info::calibrated))
      .def_prop_ro("variant", [](const rexit_bundle_info& info) { return std::string(info.variant); })
      .def_ro("top_k", &rexit_bundle_info::top_k)
      .def_prop_ro("ordered", flag(&rexit_bundle_info::ordered))
      .def_ro("quorum", &rexit_bundle_info::quorum)
      .def_ro("vocabulary", &rexit_bundle_info::vocabulary)
      .def_prop_ro("has_catalog", flag(&rexit_bundle_info::has_catalog))
      .def_ro("prior_shift", &rexit_bundle_info::prior_shift)
      .def_ro("segments", &rexit_bundle_info::segments)
      .def_prop_ro("scores", flag(&rexit_bundle_info::scores))
      .def_prop_ro("policy_sha256", [](const rexit_bundle_info& info) { return std::string(info.policy_sha256); });
  nb::class_<ExitInfo>(module, "ExitInfo")
      .def_ro("layers", &ExitInfo::layers)
      .def_ro("a", &ExitInfo::a)
      .def_ro("b", &ExitInfo::b)
      .def_ro("upper", &ExitInfo::upper)
      .def_ro("lower", &ExitInfo::lower)
      .def_ro("patience", &ExitInfo::patience)
      .def_ro("rise", &ExitInfo::rise)
      .def_ro("fall", &ExitInfo::fall)
      .def_ro("keep", &ExitInfo::keep)
      .def_ro("earlier", &ExitInfo::earlier);
  nb::class_<rexit_segment_stats>(module, "SegmentStats")
      .def_ro("prefix_tokens", &rexit_segment_stats::prefix_tokens)
      .def_ro("candidates", &rexit_segment_stats::candidates)
      .def_ro("candidate_tokens", &rexit_segment_stats::candidate_tokens)
      .def_ro("prefix_us", &rexit_segment_stats::prefix_us)
      .def_ro("slate_us", &rexit_segment_stats::slate_us);
  nb::class_<rexit_stats>(module, "Stats")
      .def_ro("prefix_tokens", &rexit_stats::prefix_tokens)
      .def_ro("prefix_tokens_reused", &rexit_stats::prefix_tokens_reused)
      .def_ro("candidates", &rexit_stats::candidates)
      .def_ro("cut_short", &rexit_stats::cut_short)
      .def_ro("candidate_tokens", &rexit_stats::candidate_tokens)
      .def_ro("candidate_layers", &rexit_stats::candidate_layers)
      .def_ro("prefix_layers", &rexit_stats::prefix_layers)
      .def_ro("retrieval_us", &rexit_stats::retrieval_us)
      .def_ro("prefix_us", &rexit_stats::prefix_us)
      .def_ro("slate_us", &rexit_stats::slate_us)
      .def_ro("total_us", &rexit_stats::total_us)
      .def_prop_ro("known_user", flag(&rexit_stats::known_user));
  nb::class_<Scores>(module, "Scores")
      .def_prop_ro("index", column([](const rexit_score& score) { return std::int64_t{score.item}; }), owner)
      .def_prop_ro("exit", column(exit_number), owner)
      .def_prop_ro("probability", column([](const rexit_score& score) { return score.probability; }), owner)
      .def_prop_ro("log_odds", column([](const rexit_score& score) { return score.log_odds; }), owner)
      .def_prop_ro("cut_short", column([](const rexit_score& score) { return std::uint8_t(score.cut_short != 0); }), owner)
      .def_ro("stats", &Scores::stats)
      .def_ro("segments", &Scores::segments);
  nb::class_<JsonAnswer>(module, "JsonAnswer")
      .def_prop_ro("text", [](const JsonAnswer& answer) { return nb::bytes(answer.text.data(), answer.text.size()); })
      .def_ro("stats", &JsonAnswer::stats)
      .def_ro("segments", &JsonAnswer::segments);
  nb::class_<Trace>(module, "Trace")
      .def_prop_ro("log_odds", array<Trace>(&Trace::log_odds), owner)
      .def_ro("stats", &Trace::stats)
      .def_ro("segments", &Trace::segments);
  nb::class_<rexit::Prompt>(module, "Prompt")
      .def_prop_ro("tokens", array<rexit::Prompt>(&rexit::Prompt::tokens), owner)
      .def_ro("offsets", &rexit::Prompt::offsets);
  nb::class_<rexit::GoldenCheck>(module, "GoldenCheck")
      .def_ro("slates", &rexit::GoldenCheck::slates)
      .def_ro("tolerance", &rexit::GoldenCheck::tolerance)
      .def_ro("worst", &rexit::GoldenCheck::worst)
      .def_ro("prompt", &rexit::GoldenCheck::prompt)
      .def_ro("log_odds", &rexit::GoldenCheck::log_odds)
      .def_prop_ro("trace", array<rexit::GoldenCheck>(&rexit::GoldenCheck::trace), owner);
  nb::class_<rexit_memory>(module, "Memory")
      .def_ro("prefixes", &rexit_memory::prefixes)
      .def_ro("buffers", &rexit_memory::buffers)
      .def_ro("working", &rexit_memory::working)
      .def_ro("weights", &rexit_memory::weights)
      .def_ro("pinned", &rexit_memory::pinned)
      .def_ro("gpu", &rexit_memory::gpu);
}

}  // namespace

NB_MODULE(_native, module) {
  nb::register_exception_translator(raise);
  module.attr("version") = rexit_version();
  rexit_set_log(forward_log, nullptr, REXIT_LOG_DEBUG);
  // ONNX Runtime's threads still run while the interpreter exits, when nothing may call into it.
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] { rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR); }));
  module.def(
      "verify",
      [](const Place& place, const std::string& variant) {
        with_place(place, [&](const auto& bundle) { rexit::verify(bundle, variant); });
      },
      "place"_a, "variant"_a);
  bind_requests(module);
  bind_answers(module);
  rexit::python::bind_library(module);
  nb::class_<Session>(module, "Session")
      .def(
          "__init__",
          [](Session* self, const Place& place, const rexit::BundleOptions& options, const SessionOptions& session_options) {
            with_place(place, [&](const auto& bundle) { new (self) Session(rexit::Bundle(bundle, options), session_options); });
          },
          "place"_a, "options"_a, "session_options"_a)
      .def("another", &Session::another, nb::rv_policy::take_ownership)
      .def("reloaded", &Session::reloaded, nb::rv_policy::take_ownership)
      .def("read_file", &Session::read_file, "path"_a)
      .def("info", &Session::info, nb::keep_alive<0, 1>())  // it points into the bundle
      .def("exits", &Session::exits)
      .def("score", &Session::score, "request"_a)
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

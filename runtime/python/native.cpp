// rexit.runtime._native: rexit.hpp for Python. runtime/session.py adds checks and NumPy conveniences.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <variant>

#include "rexit/rexit.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Ids = std::vector<rexit::Id>;
using Context = std::vector<std::pair<std::string, rexit::ContextValue>>;
using Texts = std::vector<std::pair<std::string, std::vector<std::int32_t>>>;
using TopK = std::tuple<std::size_t, bool, std::vector<float>, std::vector<float>>;  // k, ordered, rise, fall
// upper, lower, patience, quorum, top_k
using Rules = std::tuple<std::vector<float>, std::vector<float>, std::size_t, float, std::optional<TopK>>;
using SegmentRow = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, double, double>;
using StatsRow = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, double, double, double,
                            double, bool, std::int32_t, std::vector<SegmentRow>>;
using ExitRow = std::tuple<std::size_t, float, float, float, float, std::size_t, float, float, std::vector<float>,
                           std::vector<std::pair<float, float>>>;
using InfoRow =
    std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, bool, bool, bool, std::string,
               std::size_t, bool, float, std::size_t, bool, float, std::string, std::vector<std::pair<std::string, float>>>;
template <class T, class... Shape>
using Numpy = nb::ndarray<nb::numpy, T, Shape...>;
using ScoreRow = std::tuple<Numpy<std::int64_t, nb::ndim<1>>, Numpy<std::int64_t, nb::ndim<1>>, Numpy<float, nb::ndim<1>>,
                            Numpy<float, nb::ndim<1>>, Numpy<std::uint8_t, nb::ndim<1>>, Numpy<float, nb::ndim<2>>, StatsRow>;
using Tokens = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using TraceRow = std::tuple<Numpy<float>, StatsRow>;
// slates, tolerance, worst difference, lines of the prompt and the log-odds, trace
using GoldenRow = std::tuple<std::size_t, float, float, std::string, std::string, Numpy<float>>;
// exits, c by the policy, c and raw log-odds at full depth; drawn, audited and skipped slates
using AuditRow = std::tuple<Numpy<std::int64_t, nb::ndim<1>>, Numpy<float, nb::ndim<1>>, Numpy<float, nb::ndim<1>>,
                            Numpy<float, nb::ndim<1>>, std::uint64_t, std::uint64_t, std::uint64_t>;
// What a session is created with: cache_bytes, slate_bytes, audit, audit_seed.
struct SessionOptions {
  std::size_t cache_bytes, slate_bytes;
  double audit;
  std::uint64_t audit_seed;
};

// The array owns the vector.
template <class T, class... Shape>
Numpy<T, Shape...> to_numpy(std::vector<T> values, std::initializer_list<std::size_t> shape) {
  auto* vector = new std::vector<T>(std::move(values));
  const nb::capsule owner(vector, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Numpy<T, Shape...>(vector->data(), shape, owner);
}

StatsRow row(const rexit_stats& stats, const std::vector<rexit_segment_stats>& segments) {
  std::vector<SegmentRow> rows;
  for (const rexit_segment_stats& segment : segments)
    rows.emplace_back(segment.prefix_tokens, segment.candidates, segment.candidate_tokens, segment.prefix_us, segment.slate_us);
  return {stats.prefix_tokens,
          stats.prefix_tokens_reused,
          stats.candidate_tokens,
          stats.candidate_layers,
          stats.prefix_layers,
          stats.retrieval_us,
          stats.prefix_us,
          stats.slate_us,
          stats.total_us,
          stats.known_user != 0,
          stats.draw,
          std::move(rows)};
}

rexit::Request make_request(rexit::Id user, Ids items, Ids recent, std::vector<std::uint8_t> liked,
                            std::optional<std::int64_t> as_of, Context context, Texts texts) {
  rexit::Request request(std::move(user));
  request.items(std::move(items)).recent(std::move(recent), std::move(liked));
  if (as_of) request.as_of(*as_of);
  for (auto& [name, value] : context) request.context(std::move(name), std::move(value));
  for (auto& [name, tokens] : texts) request.text(std::move(name), std::move(tokens));
  return request;
}

rexit::TokenRequest make_token_request(const Tokens& prefix, const Tokens& candidates, const Counts& counts) {
  const auto copy = [](const Tokens& tokens) { return std::vector<std::int32_t>(tokens.data(), tokens.data() + tokens.size()); };
  rexit::TokenRequest request(copy(prefix));
  request.candidates(copy(candidates), std::vector<std::size_t>(counts.data(), counts.data() + counts.size()));
  return request;
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

rexit::Policy make_policy(Rules rules) {
  auto& [upper, lower, patience, quorum, top_k] = rules;
  rexit::Policy policy{std::move(upper), std::move(lower), patience, quorum};
  if (top_k) {
    auto& [k, ordered, rise, fall] = *top_k;
    policy.top_k = rexit::TopK{k, ordered, std::move(rise), std::move(fall)};
  }
  return policy;
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
 public:
  Session(const rexit::Bundle& bundle, const SessionOptions& options)
      : session_(bundle, options.cache_bytes, options.slate_bytes, options.audit, options.audit_seed), options_(options) {}

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

  InfoRow info() const {
    const rexit_bundle_info info = session_.bundle().info();
    std::vector<std::pair<std::string, float>> objectives;
    for (std::size_t k = 0; info.objectives != 1 && k < info.objectives; ++k) {
      const rexit_objective_info objective = session_.bundle().objective(k);
      objectives.emplace_back(objective.name, objective.weight);
    }
    return {info.users,
            info.items,
            info.exits,
            info.layers,
            info.max_tokens,
            info.max_positions,
            info.string_user_ids != 0,
            info.string_item_ids != 0,
            info.calibrated != 0,
            info.variant,
            info.top_k,
            info.ordered != 0,
            info.quorum,
            info.vocabulary,
            info.has_catalog != 0,
            info.prior_shift,
            info.policy_sha256,
            std::move(objectives)};
  }

  std::vector<ExitRow> exits() const {
    std::vector<ExitRow> rows;
    const std::size_t objectives = session_.bundle().info().objectives;
    for (std::size_t k = 0; k < session_.bundle().info().exits; ++k) {
      const rexit_exit_info exit = session_.bundle().exit(k);
      const std::vector<float> earlier(exit.earlier, exit.earlier + (exit.earlier != nullptr ? k : 0));
      std::vector<std::pair<float, float>> maps;
      for (std::size_t n = 0; exit.objectives != nullptr && n < objectives; ++n)
        maps.emplace_back(exit.objectives[n].a, exit.objectives[n].b);
      rows.emplace_back(exit.layers, exit.a, exit.b, exit.upper, exit.lower, exit.patience, exit.rise, exit.fall, earlier, maps);
    }
    return rows;
  }

  ScoreRow score(rexit::Id user, Ids items, Ids recent, std::vector<std::uint8_t> liked, std::optional<std::int64_t> as_of,
                 Context context, Texts texts, std::size_t top_k, std::int64_t deadline_us,
                 std::optional<std::uint32_t> force_exit, std::optional<Rules> policy) {
    return score_request(make_request(std::move(user), std::move(items), std::move(recent), std::move(liked), as_of,
                                      std::move(context), std::move(texts)),
                         top_k, deadline_us, force_exit, std::move(policy));
  }

  ScoreRow score_tokens(const Tokens& prefix, const Tokens& candidates, const Counts& counts, std::size_t top_k,
                        std::int64_t deadline_us, std::optional<std::uint32_t> force_exit, std::optional<Rules> policy) {
    return score_request(make_token_request(prefix, candidates, counts), top_k, deadline_us, force_exit, std::move(policy));
  }

  TraceRow trace(rexit::Id user, Ids items, Ids recent, std::vector<std::uint8_t> liked, std::optional<std::int64_t> as_of,
                 Context context, Texts texts) {
    return trace_request(make_request(std::move(user), std::move(items), std::move(recent), std::move(liked), as_of,
                                      std::move(context), std::move(texts)));
  }

  TraceRow trace_tokens(const Tokens& prefix, const Tokens& candidates, const Counts& counts) {
    return trace_request(make_token_request(prefix, candidates, counts));
  }

  template <class Request>
  ScoreRow score_request(Request request, std::size_t top_k, std::int64_t deadline_us, std::optional<std::uint32_t> force_exit,
                         std::optional<Rules> policy) {
    rexit::Scores result;
    std::vector<rexit_segment_stats> segments;
    {
      const nb::gil_scoped_release no_gil;
      request.top_k(top_k).deadline_us(deadline_us);
      if (force_exit) request.force_exit(*force_exit);
      if (policy) request.policy(make_policy(std::move(*policy)));
      const std::lock_guard<std::mutex> lock(mutex_);
      result = session_.score(request);
      segments = session_.segments();
    }
    const std::size_t count = result.scores.size(), objectives = count == 0 ? 0 : result.probabilities.size() / count;
    std::vector<std::int64_t> index, exit;  // exit -1: no answer
    std::vector<float> probability, log_odds;
    std::vector<std::uint8_t> cut_short;
    for (const rexit_score& score : result.scores) {
      index.push_back(score.item);
      exit.push_back(score.exit == REXIT_NO_EXIT ? -1 : std::int64_t{score.exit});
      probability.push_back(score.probability);
      log_odds.push_back(score.log_odds);
      cut_short.push_back(score.cut_short != 0);
    }
    return {to_numpy<std::int64_t, nb::ndim<1>>(std::move(index), {count}),
            to_numpy<std::int64_t, nb::ndim<1>>(std::move(exit), {count}),
            to_numpy<float, nb::ndim<1>>(std::move(probability), {count}),
            to_numpy<float, nb::ndim<1>>(std::move(log_odds), {count}),
            to_numpy<std::uint8_t, nb::ndim<1>>(std::move(cut_short), {count}),
            to_numpy<float, nb::ndim<2>>(std::move(result.probabilities), {count, objectives}),
            row(result.stats, segments)};
  }

  template <class Request>
  TraceRow trace_request(const Request& request) {
    rexit::Trace result;
    std::vector<rexit_segment_stats> segments;
    const std::size_t count = request.item_count();
    const rexit_bundle_info info = session_.bundle().info();
    {
      const nb::gil_scoped_release no_gil;
      const std::lock_guard<std::mutex> lock(mutex_);
      result = session_.trace(request);
      segments = session_.segments();
    }
    return {log_odds_array(std::move(result.log_odds), count, info), row(result.stats, segments)};
  }

  // [candidates, exits], or with several objectives [candidates, exits, objectives].
  static Numpy<float> log_odds_array(std::vector<float> log_odds, std::size_t candidates, const rexit_bundle_info& info) {
    if (info.objectives == 1) return to_numpy<float>(std::move(log_odds), {candidates, info.exits});
    return to_numpy<float>(std::move(log_odds), {candidates, info.exits, info.objectives});
  }

  auto prompt(rexit::Id user, Ids items, Ids recent, std::vector<std::uint8_t> liked, std::optional<std::int64_t> as_of,
              Context context, Texts texts) {
    const nb::gil_scoped_release no_gil;
    const rexit::Request request = make_request(std::move(user), std::move(items), std::move(recent), std::move(liked), as_of,
                                                std::move(context), std::move(texts));
    const std::lock_guard<std::mutex> lock(mutex_);
    rexit::Prompt prompt = session_.prompt(request);
    return std::make_pair(std::move(prompt.tokens), std::move(prompt.offsets));
  }

  GoldenRow check_golden(std::size_t slate) {
    rexit::GoldenCheck check;
    const rexit_bundle_info info = session_.bundle().info();
    {
      const nb::gil_scoped_release no_gil;
      const std::lock_guard<std::mutex> lock(mutex_);
      check = session_.check_golden(slate);
    }
    return {check.slates, check.tolerance, check.worst,
            check.prompt, check.log_odds,  log_odds_array(std::move(check.trace), check.candidates, info)};
  }

  AuditRow audit() {
    rexit::Audit audit;
    {
      const nb::gil_scoped_release no_gil;
      const std::lock_guard<std::mutex> lock(mutex_);
      audit = session_.audit();
    }
    const std::size_t count = audit.exits.size();
    return {to_numpy<std::int64_t, nb::ndim<1>>({audit.exits.begin(), audit.exits.end()}, {count}),
            to_numpy<float, nb::ndim<1>>(std::move(audit.policy_c), {count}),
            to_numpy<float, nb::ndim<1>>(std::move(audit.full_c), {count}),
            to_numpy<float, nb::ndim<1>>(std::move(audit.full_log_odds), {count}),
            audit.drawn,
            audit.audited,
            audit.skipped};
  }

  void warm_up() {
    const nb::gil_scoped_release no_gil;
    const std::lock_guard<std::mutex> lock(mutex_);
    session_.warm_up();
  }

  void clear_cache() {
    const nb::gil_scoped_release no_gil;
    const std::lock_guard<std::mutex> lock(mutex_);
    session_.clear_cache();
  }

  void trim() {
    const nb::gil_scoped_release no_gil;
    const std::lock_guard<std::mutex> lock(mutex_);
    session_.trim();
  }

  std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t> memory() {
    const nb::gil_scoped_release no_gil;
    const rexit_memory memory = session_.memory();
    return {memory.prefixes, memory.buffers, memory.working, memory.weights, memory.pinned, memory.gpu};
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
  }
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
  nb::class_<Session>(module, "Session")
      .def(
          "__init__",
          [](Session* self, const Place& place, const std::string& variant, const std::string& library, std::int32_t threads,
             std::size_t cache_bytes, std::size_t slate_bytes, const std::string& device, std::int32_t device_id,
             const std::string& provider, std::vector<std::pair<std::string, std::string>> provider_options, bool own_threads,
             std::int32_t spinning, double audit, std::uint64_t audit_seed) {
            rexit::BundleOptions options{variant, library, threads, device, device_id};
            options.provider = provider;
            options.provider_options = std::move(provider_options);
            options.own_threads = own_threads;
            options.spinning = static_cast<rexit_spinning>(spinning);
            const SessionOptions of_session{cache_bytes, slate_bytes, audit, audit_seed};
            with_place(place, [&](const auto& bundle) { new (self) Session(rexit::Bundle(bundle, options), of_session); });
          },
          "place"_a, "variant"_a, "library"_a, "threads"_a, "cache_bytes"_a, "slate_bytes"_a, "device"_a, "device_id"_a,
          "provider"_a, "provider_options"_a, "own_threads"_a, "spinning"_a, "audit"_a, "audit_seed"_a)
      .def("another", &Session::another, nb::rv_policy::take_ownership)
      .def("reloaded", &Session::reloaded, nb::rv_policy::take_ownership)
      .def("read_file", &Session::read_file, "path"_a)
      .def("info", &Session::info)
      .def("exits", &Session::exits)
      .def("score", &Session::score, "user"_a, "items"_a, "recent"_a, "liked"_a, "as_of"_a.none(), "context"_a, "texts"_a,
           "top_k"_a, "deadline_us"_a, "force_exit"_a.none(), "policy"_a.none())
      .def("score_tokens", &Session::score_tokens, "prefix"_a, "candidates"_a, "counts"_a, "top_k"_a, "deadline_us"_a,
           "force_exit"_a.none(), "policy"_a.none())
      .def("trace", &Session::trace, "user"_a, "items"_a, "recent"_a, "liked"_a, "as_of"_a.none(), "context"_a, "texts"_a)
      .def("trace_tokens", &Session::trace_tokens, "prefix"_a, "candidates"_a, "counts"_a)
      .def("prompt", &Session::prompt, "user"_a, "items"_a, "recent"_a, "liked"_a, "as_of"_a.none(), "context"_a, "texts"_a)
      .def("check_golden", &Session::check_golden, "slate"_a)
      .def("audit", &Session::audit)
      .def("warm_up", &Session::warm_up)
      .def("clear_cache", &Session::clear_cache)
      .def("trim", &Session::trim)
      .def("cancel", &Session::cancel)
      .def("memory", &Session::memory);
}

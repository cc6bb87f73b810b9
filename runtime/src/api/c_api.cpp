// The C ABI: check arguments, call, turn exceptions into statuses.
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/request.hpp"
#include "base/status.hpp"
#include "files/file_list.hpp"
#include "rexit/rexit.h"
#include "session/golden.hpp"
#include "session/session.hpp"

using namespace rexit::core;

struct rexit_bundle {
  rexit_bundle(std::shared_ptr<const LoadedBundle> opened, Conditions conditions)
      : loaded(std::move(opened)), here(std::move(conditions)) {
    if (!loaded->bundle.reads_scores()) return;
    for (const std::string& name : loaded->bundle.program().scores) score_names.push_back(name.c_str());
  }

  std::shared_ptr<const LoadedBundle> loaded;
  std::vector<const char*> score_names;  // of exit zero
  Conditions here;                       // what it runs under
};

struct rexit_session {
  Session session;
  Request request;                            // of the current call; a member so that calls reuse its memory
  std::vector<rexit_score> scores;            // of the last rexit_session_score
  std::string answer;                         // of the last rexit_session_score_json
  GoldenCheck golden;                         // of the last rexit_session_check_golden
  std::atomic<std::size_t> request_bytes{0};  // of request, scores and answer, as at the end of the last call
  std::atomic_flag busy = ATOMIC_FLAG_INIT;

  rexit_session(std::shared_ptr<const LoadedBundle> loaded, const rexit_session_options& options)
      : session(std::move(loaded), options.cache_bytes, options.slate_bytes) {}
};

namespace {

#define REXIT_TEXT_(x) #x
#define REXIT_TEXT(x) REXIT_TEXT_(x)
constexpr char version[] =
    REXIT_TEXT(REXIT_VERSION_MAJOR) "." REXIT_TEXT(REXIT_VERSION_MINOR) "." REXIT_TEXT(REXIT_VERSION_PATCH);

constexpr std::size_t max_bytes_kept = std::size_t{1} << 20;  // of a session's request, and of its answer, from call to call

template <class T>
T* required(T* pointer, const char* name) {
  if (pointer == nullptr) fail(REXIT_INVALID_ARGUMENT, name, " is NULL");
  return pointer;
}

// Assigning Request{} alone would keep the memory of its strings.
void release(Request& request) {
  const Request released = std::move(request);
  request = {};
}

// Exclusive use of a session, from the beginning of a call to its end. Two threads would corrupt its buffers, so the second
// thread gets an error.
class SessionLock {
 public:
  explicit SessionLock(rexit_session* handle) : handle_(required(handle, "session")) {
    if (handle_->busy.test_and_set(std::memory_order_acquire))
      fail(REXIT_INVALID_ARGUMENT, "the session is in use by another thread: give each thread its own session");
    if (handle_->answer.capacity() > max_bytes_kept) std::string().swap(handle_->answer);
    handle_->session.discard_cancellation();
  }
  ~SessionLock() {
    if (handle_->request.memory() > max_bytes_kept) release(handle_->request);
    handle_->request_bytes =
        handle_->request.memory() + handle_->scores.capacity() * sizeof(rexit_score) + handle_->answer.capacity();
    handle_->session.discard_cancellation();
    handle_->busy.clear(std::memory_order_release);
  }
  SessionLock(const SessionLock&) = delete;
  SessionLock& operator=(const SessionLock&) = delete;
  Session* operator->() const noexcept { return &handle_->session; }
  const Bundle& bundle() const noexcept { return handle_->session.loaded().bundle; }
  // `options`: may be null.
  const Request& read(const char* request, std::size_t bytes, const rexit_call_options* options = nullptr) const {
    ReadLimits limits{start_, 0, 0, &handle_->session.cancelled()};
    if (options != nullptr) {
      limits.deadline_us = options->deadline_us;
      limits.waited_us = options->waited_us;
    }
    read_request({bytes != 0 ? required(request, "request") : "", bytes}, bundle(), handle_->request, limits);
    if (options != nullptr) apply_options(*options, bundle(), handle_->request);
    return handle_->request;
  }

 private:
  rexit_session* handle_;
  const Clock::time_point start_ = Clock::now();
};

// Calls work() and returns REXIT_OK, or the status of what it throws.
template <class Work>
rexit_status guarded(const Work& work) {
  try {
    work();
    return REXIT_OK;
  } catch (...) {
    return report_current_exception();
  }
}

void write_stats(const rexit_stats& stats, rexit_stats* out) {
  if (out != nullptr) *out = stats;
}

// Scores a request: use(lock, request, scores).
template <class Use>
void run_score(rexit_session* session, const char* text, std::size_t bytes, const rexit_call_options* options,
               rexit_stats* stats_out, const Use& use) {
  const Clock::time_point start = Clock::now();
  const SessionLock lock(session);
  lock->reset_segments();
  rexit_stats stats{};
  const Request& request = lock.read(text, bytes, options);
  use(lock, request, lock->score(request, start, stats), stats);
  write_stats(stats, stats_out);
}

void check_execution(const Execution& options) {
  if (options.threads < 0) fail(REXIT_INVALID_ARGUMENT, "options.threads is ", options.threads, ", expected 0 or more");
  if (options.device_id < 0) fail(REXIT_INVALID_ARGUMENT, "options.device_id is ", options.device_id, ", expected 0 or more");
}

// "device cuda, here cpu; threads 4, here 2"; empty if no known condition differs.
std::string differences(const Conditions& recorded, const Conditions& here) {
  const auto text = [](std::int32_t threads) { return threads == 0 ? std::string() : std::to_string(threads); };
  std::string differences;
  const auto compare = [&](const char* name, const std::string& then, const std::string& now) {
    if (then.empty() || now.empty() || then == now) return;
    differences += (differences.empty() ? "" : "; ") + std::string(name) + " " + then + ", here " + now;
  };
  compare("device", recorded.device, here.device);
  compare("threads", text(recorded.threads), text(here.threads));
  compare("architecture", recorded.architecture, here.architecture);
  compare("onnxruntime", recorded.onnxruntime, here.onnxruntime);
  compare("rexit", recorded.rexit, here.rexit);
  return differences;
}

void warn_if_calibrated_elsewhere(const Bundle& bundle, const Conditions& here) {
  const std::string changes = differences(bundle.calibrated_on(), here);
  if (!changes.empty())
    log(REXIT_LOG_WARNING, bundle.where_variant("policy.json") + ": calibrated with " + changes +
                               ": stopping early may save less than it says; run `rexit calibrate` here");
}

template <std::size_t size>
void copy_text(const std::string& text, const char* what, char (&out)[size]) {
  if (text.size() >= size)
    fail(REXIT_UNSUPPORTED, what, " `", text.substr(0, 16), "…` has ", text.size(), " bytes, expected fewer than ", size);
  std::memcpy(out, text.data(), text.size());
}

void describe_variant(const std::string& path, std::size_t index, rexit_variant_info* info_out) {
  required(info_out, "info_out");
  const std::vector<std::string> names = variant_names(Folder(path));
  if (index >= names.size())
    fail(REXIT_UNKNOWN_VARIANT, path, ": variant index is ", index, ", expected less than ", names.size());
  const Bundle bundle(path, names[index].c_str());
  const Variant& variant = bundle.variant();
  rexit_variant_info info{};
  info.variant_count = names.size();
  copy_text(variant.name, "variant", info.name);
  copy_text(variant.target, "target", info.target);
  copy_text(variant.precision, "precision", info.precision);
  info.calibrated = bundle.calibrated() ? 1 : 0;
  info.graph_bytes = variant.graph_bytes;
  info.catalog_bytes = bundle.table_bytes();
  info.session_bytes = session_bytes(bundle);
  *info_out = info;
}

void open_bundle(const char* path, const rexit_bundle_options* options, rexit_bundle** bundle_out) {
  required(path, "path");
  required(bundle_out, "bundle_out");
  const Execution execution = options != nullptr ? *options : Execution{};
  check_execution(execution);
  const auto make_factory = [&](const Bundle& bundle) { return make_backend_factory(bundle, execution); };
  const auto load_zero = [&](const Bundle& bundle) { return load_zero_graph(bundle, execution); };
  auto loaded = std::make_shared<const LoadedBundle>(path, execution.variant, make_factory, load_zero);
  log(REXIT_LOG_INFO, loaded->bundle.path() + ": opened variant " + loaded->bundle.variant().name);
  Conditions here = conditions_of(loaded->bundle, execution);
  here.rexit = version;
  warn_if_calibrated_elsewhere(loaded->bundle, here);
  *bundle_out = new rexit_bundle(std::move(loaded), std::move(here));
}

}  // namespace

extern "C" {

const char* rexit_version(void) { return version; }

const char* rexit_status_name(rexit_status status) { return status_name(status); }

const char* rexit_last_error(void) { return last_error(); }

void rexit_set_log(void (*log)(void*, rexit_log_level, const char*), void* context, rexit_log_level level) {
  set_log(log, context, level);
}

rexit_status rexit_bundle_get_variant(const char* path, size_t index, rexit_variant_info* info_out) {
  return guarded([&] { describe_variant(required(path, "path"), index, info_out); });
}

rexit_status rexit_bundle_verify(const char* path, const char* variant) {
  return guarded([&] { verify_bundle(required(path, "path"), variant); });
}

rexit_status rexit_bundle_open(const char* path, const rexit_bundle_options* options, rexit_bundle** bundle_out) {
  return guarded([&] { open_bundle(path, options, bundle_out); });
}

rexit_status rexit_bundle_reload(const rexit_bundle* bundle, rexit_bundle** reloaded_out) {
  return guarded([&] {
    const LoadedBundle& opened = *required(bundle, "bundle")->loaded;
    required(reloaded_out, "reloaded_out");
    rexit_bundle* reloaded = nullptr;
    if (opened.bundle.changed()) {
      auto next = std::make_shared<const LoadedBundle>(
          opened, [](const Bundle& refreshed) { return load_zero_graph(refreshed, Execution{}); });
      warn_if_calibrated_elsewhere(next->bundle, bundle->here);
      reloaded = new rexit_bundle(std::move(next), bundle->here);
      log(REXIT_LOG_INFO, opened.bundle.path() + ": reloaded variant " + opened.bundle.variant().name);
    }
    *reloaded_out = reloaded;
  });
}

void rexit_bundle_close(rexit_bundle* bundle) { delete bundle; }

rexit_status rexit_bundle_get_info(const rexit_bundle* bundle, rexit_bundle_info* info_out) {
  return guarded([&] {
    const Bundle& opened = required(bundle, "bundle")->loaded->bundle;
    required(info_out, "info_out");
    rexit_bundle_info info{};
    if (opened.has_catalog()) {
      const Catalog& catalog = opened.catalog();
      info.has_catalog = 1;
      info.users = catalog.users.ids.size();
      info.items = catalog.items.ids.size();
      info.string_user_ids = catalog.users.ids.are_strings() ? 1 : 0;
      info.string_item_ids = catalog.items.ids.are_strings() ? 1 : 0;
    }
    info.vocabulary = opened.vocabulary();
    info.exits = opened.exits();
    info.layers = opened.model().layers;
    info.max_tokens = opened.variant().max_tokens;
    info.max_positions = opened.variant().max_positions;
    info.calibrated = opened.calibrated() ? 1 : 0;
    info.variant = opened.variant().name.c_str();
    info.top_k = opened.policy().top_k.k;
    info.ordered = opened.policy().top_k.ordered ? 1 : 0;
    info.quorum = opened.policy().quorum;
    info.prior_shift = opened.policy().prior_shift;
    info.policy_sha256 = opened.policy_sha256().c_str();
    info.segments = opened.segments();
    info.scores = bundle->score_names.size();
    info.score_names = bundle->score_names.data();
    info.takes_texts = opened.word_pieces() != nullptr ? 1 : 0;
    info.rounding = opened.variant().rounding();
    info.max_candidates = max_request_candidates;
    *info_out = info;
  });
}

rexit_status rexit_bundle_get_exit(const rexit_bundle* bundle, size_t exit, rexit_exit_info* info_out) {
  return guarded([&] {
    const Bundle& opened = required(bundle, "bundle")->loaded->bundle;
    required(info_out, "info_out");
    if (exit >= opened.exits())
      fail(REXIT_INVALID_ARGUMENT, "exit is ", exit, ", the bundle has exits 0 to ", opened.exits() - 1);
    const ExitRule& rule = opened.policy().exits[exit];
    const TopK& top_k = opened.policy().top_k;
    const auto move = [exit](const std::vector<float>& moves) { return exit < moves.size() ? moves[exit] : 0.0f; };
    const bool reads_earlier_heads = exit != 0 && !opened.policy().earlier.empty();
    *info_out = {opened.depth(exit),
                 rule.a,
                 rule.b,
                 rule.upper,
                 rule.lower,
                 opened.policy().patience,
                 move(top_k.rise),
                 move(top_k.fall),
                 reads_earlier_heads ? opened.policy().earlier_weights(exit) : nullptr,
                 opened.policy().keep_after(exit)};
  });
}

rexit_status rexit_bundle_read_file(const rexit_bundle* bundle, const char* path, void* buffer, size_t capacity,
                                    size_t* bytes_out) {
  return guarded([&] {
    const Bundle& opened = required(bundle, "bundle")->loaded->bundle;
    required(bytes_out, "bytes_out");
    if (const char* problem = path_error(required(path, "path"))) fail(REXIT_INVALID_ARGUMENT, "path `", path, "` ", problem);
    const File file = opened.folder().open(path);
    if (file.size() <= capacity && file.size() != 0) std::memcpy(required(buffer, "buffer"), file.data(), file.size());
    *bytes_out = file.size();
  });
}

rexit_status rexit_session_create(const rexit_bundle* bundle, const rexit_session_options* options, rexit_session** session_out) {
  return guarded([&] {
    required(session_out, "session_out");
    const rexit_session_options settings = options != nullptr ? *options : rexit_session_options{};
    *session_out = new rexit_session(required(bundle, "bundle")->loaded, settings);
  });
}

void rexit_session_destroy(rexit_session* session) { delete session; }

rexit_status rexit_session_warm_up(rexit_session* session) {
  return guarded([&] { SessionLock(session)->warm_up(); });
}

rexit_status rexit_session_get_memory(const rexit_session* session, rexit_memory* memory_out) {
  return guarded([&] {
    required(memory_out, "memory_out");
    const Memory memory = required(session, "session")->session.memory();
    *memory_out = {memory.prefixes, memory.buffers + session->request_bytes, memory.pinned, memory.gpu};
  });
}

rexit_status rexit_session_clear_cache(rexit_session* session) {
  return guarded([&] { SessionLock(session)->clear_cache(); });
}

rexit_status rexit_session_trim(rexit_session* session) {
  return guarded([&] {
    const SessionLock lock(session);
    release(session->request);
    std::vector<rexit_score>().swap(session->scores);
    std::string().swap(session->answer);
    session->golden = {};
    lock->trim();
  });
}

rexit_status rexit_session_cancel(rexit_session* session) {
  return guarded([&] { required(session, "session")->session.cancel(); });
}

rexit_status rexit_session_get_segment(const rexit_session* session, size_t segment, rexit_segment_stats* stats_out) {
  return guarded([&] {
    required(stats_out, "stats_out");
    const std::vector<SegmentStats> segments = required(session, "session")->session.segments();
    if (segment >= segments.size())
      fail(REXIT_INVALID_ARGUMENT, "segment is ", segment, ", the bundle has segments 0 to ", segments.size() - 1);
    const SegmentStats& stats = segments[segment];
    *stats_out = {stats.prefix_tokens, stats.candidates, stats.candidate_tokens, stats.prefix_us, stats.slate_us};
  });
}

rexit_status rexit_session_score(rexit_session* session, const char* request, size_t request_bytes,
                                 const rexit_call_options* options, const rexit_score** scores_out, size_t* count_out,
                                 rexit_stats* stats_out) {
  return guarded([&] {
    required(scores_out, "scores_out");
    required(count_out, "count_out");
    run_score(
        session, request, request_bytes, options, stats_out,
        [&](const SessionLock& lock, const Request&, const std::vector<Score>& scores, const rexit_stats&) {
          const float prior_shift = lock.bundle().policy().prior_shift;
          session->scores.clear();
          for (const auto& [item, answer] : scores)
            session->scores.push_back({static_cast<std::uint32_t>(item), answer.exit, probability(answer.calibrated, prior_shift),
                                       answer.log_odds, answer.cut_short ? 1u : 0u});
          *scores_out = session->scores.data();
          *count_out = session->scores.size();
        });
  });
}

rexit_status rexit_session_score_json(rexit_session* session, const char* request, size_t request_bytes,
                                      const rexit_call_options* options, const char** answer_out, size_t* answer_bytes_out,
                                      rexit_stats* stats_out) {
  return guarded([&] {
    required(answer_out, "answer_out");
    required(answer_bytes_out, "answer_bytes_out");
    run_score(session, request, request_bytes, options, stats_out,
              [&](const SessionLock&, const Request& read, const std::vector<Score>& scores, const rexit_stats& stats) {
                write_answer(read, session->session, scores, stats, options != nullptr ? options->waited_us : 0, session->answer);
                *answer_out = session->answer.c_str();
                *answer_bytes_out = session->answer.size();
              });
  });
}

rexit_status rexit_session_trace(rexit_session* session, const char* request, size_t request_bytes, const float** log_odds_out,
                                 size_t* count_out, rexit_stats* stats_out) {
  return guarded([&] {
    const Clock::time_point start = Clock::now();
    const SessionLock lock(session);
    lock->reset_segments();
    required(log_odds_out, "log_odds_out");
    required(count_out, "count_out");
    rexit_stats stats{};
    *log_odds_out = lock->trace(lock.read(request, request_bytes), start, stats).data();
    *count_out = stats.candidates;
    write_stats(stats, stats_out);
  });
}

rexit_status rexit_session_get_item(const rexit_session* session, size_t candidate, rexit_item_id* id_out) {
  return guarded([&] {
    const Session& opened = required(session, "session")->session;
    required(id_out, "id_out");
    const std::size_t candidates = opened.candidates();
    if (candidate >= candidates)
      fail(REXIT_INVALID_ARGUMENT, "candidate is ", candidate, ", the session's last request had ", candidates);
    rexit_item_id id{static_cast<std::int64_t>(candidate), nullptr, 0};
    if (const std::optional<Row> row = opened.item(candidate)) {
      const Ids& ids = opened.loaded().bundle.catalog().items.ids;
      const auto at = static_cast<std::size_t>(*row);
      if (ids.are_strings()) {
        const std::string_view text = ids.string_at(at);
        id = {0, text.data(), text.size()};
      } else {
        id.number = ids.number_at(at);
      }
    }
    *id_out = id;
  });
}

rexit_status rexit_session_check_golden(rexit_session* session, size_t slate, rexit_golden_check* check_out) {
  return guarded([&] {
    const SessionLock lock(session);
    required(check_out, "check_out");
    session->golden = check_golden(session->session, slate);
    const GoldenCheck& check = session->golden;
    *check_out = {check.slates,         check.candidates,       check.tolerance,        check.worst,
                  check.prompt.c_str(), check.log_odds.c_str(), check.decision.c_str(), check.trace.data()};
  });
}

rexit_status rexit_session_prompt(rexit_session* session, const char* request, size_t request_bytes, rexit_prompt* prompt_out) {
  return guarded([&] {
    const SessionLock lock(session);
    required(prompt_out, "prompt_out");
    const Prompt& prompt = lock->prompt(lock.read(request, request_bytes));
    *prompt_out = {prompt.tokens.data(), prompt.offsets.data() + 1, prompt.candidates()};
  });
}

}  // extern "C"

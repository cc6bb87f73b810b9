// The C ABI: check arguments, call, turn exceptions into statuses.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/c_struct.hpp"
#include "api/json_answer.hpp"
#include "api/json_request.hpp"
#include "api/request.hpp"
#include "base/status.hpp"
#include "files/file_list.hpp"
#include "rexit/rexit.h"
#include "session/golden.hpp"
#include "session/session.hpp"

using namespace rexit::core;

struct rexit_bundle {
  std::shared_ptr<const LoadedBundle> loaded;
};

struct rexit_session {
  Session session;
  Request request;                         // of the current call; a member so that calls reuse its memory, like the next two
  JsonRequest json;                        // likewise
  std::string answer;                      // of the last rexit_session_score_json
  GoldenCheck golden;                      // of the last rexit_session_check_golden
  std::atomic<std::size_t> json_bytes{0};  // of `json` and `answer`, as at the end of the last call
  std::atomic_flag busy = ATOMIC_FLAG_INIT;

  rexit_session(std::shared_ptr<const LoadedBundle> loaded, const rexit_session_options& options)
      : session(std::move(loaded), options.cache_bytes, options.slate_bytes) {}
};

namespace {

#define REXIT_TEXT_(x) #x
#define REXIT_TEXT(x) REXIT_TEXT_(x)
constexpr char version[] =
    REXIT_TEXT(REXIT_VERSION_MAJOR) "." REXIT_TEXT(REXIT_VERSION_MINOR) "." REXIT_TEXT(REXIT_VERSION_PATCH);

constexpr std::size_t max_json_bytes_kept = std::size_t{1} << 20;  // of a session, from call to call

// Exclusive use of a session, from the beginning of a call to its end. Two threads would corrupt its buffers, so the second
// thread gets an error.
class SessionLock {
 public:
  explicit SessionLock(rexit_session* handle) : handle_(required(handle, "session")) {
    if (handle_->busy.test_and_set(std::memory_order_acquire))
      fail(REXIT_INVALID_ARGUMENT, "the session is in use by another thread: give each thread its own session");
    handle_->session.discard_cancellation();
  }
  ~SessionLock() {
    handle_->json.trim(max_json_bytes_kept);
    handle_->json_bytes = handle_->json.memory() + handle_->answer.capacity();
    handle_->session.discard_cancellation();
    handle_->busy.clear(std::memory_order_release);
  }
  SessionLock(const SessionLock&) = delete;
  SessionLock& operator=(const SessionLock&) = delete;
  Session* operator->() const noexcept { return &handle_->session; }
  const Request& read(const rexit_request& request) const {
    read_request(request, handle_->session.loaded().bundle, handle_->request);
    return handle_->request;
  }

 private:
  rexit_session* handle_;
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
  if (out != nullptr) write_struct(stats, out);
}

void check_stats(const rexit_stats* out) {
  if (out != nullptr) check_size(out, "stats_out");
}

void run_score(rexit_session* session, const rexit_request* request, rexit_score* scores_out, rexit_stats* stats_out) {
  const Clock::time_point start = Clock::now();
  const SessionLock lock(session);
  lock->reset_segments();
  required(scores_out, "scores_out");
  check_stats(stats_out);
  rexit_stats stats{};
  const rexit_request source = read_struct(request, "request");
  const Request& resolved = lock.read(source);
  const std::size_t score_size = read_score_size(source);
  const float prior_shift = lock->loaded().bundle.policy().prior_shift;
  std::size_t index = 0;
  const std::vector<Score>& scores = lock->score(resolved, start, stats);
  for (const auto& [item, answer] : scores)
    write_entry<rexit_score>({static_cast<std::uint32_t>(item), answer.exit, probability(answer.calibrated, prior_shift),
                              answer.log_odds, answer.cut_short ? 1u : 0u, 0},
                             scores_out, index++, score_size);
  write_stats(stats, stats_out);
}

// The request with what its caller decides.
rexit_request with_options(const rexit_request& source, const rexit_json_options& options) {
  if (options.waited_us < 0) fail(REXIT_INVALID_ARGUMENT, "options.waited_us is ", options.waited_us, ", expected 0 or more");
  if (options.deadline_us < 0)
    fail(REXIT_INVALID_ARGUMENT, "options.deadline_us is ", options.deadline_us, ", expected 0 or more");
  rexit_request request = source;
  request.policy = options.policy;
  if (options.has_force_exit != 0) {
    request.has_force_exit = options.has_force_exit;
    request.force_exit = options.force_exit;
  }
  if (request.deadline_us == 0) request.deadline_us = options.deadline_us;
  if (request.deadline_us == 0) return request;
  if (request.deadline_us <= options.waited_us) fail(REXIT_DEADLINE, "the deadline passed while the request waited");
  request.deadline_us -= options.waited_us;
  return request;
}

void run_score_json(rexit_session* session, std::string_view text, const rexit_json_options* options, const char** answer_out,
                    std::size_t* answer_bytes_out, rexit_stats* stats_out) {
  const Clock::time_point start = Clock::now();
  const SessionLock lock(session);
  lock->reset_segments();
  required(answer_out, "answer_out");
  required(answer_bytes_out, "answer_bytes_out");
  check_stats(stats_out);
  const rexit_json_options settings = options != nullptr ? read_struct(options, "options") : rexit_json_options{};
  JsonRequest& json = session->json;
  json.read(text);
  json.set_texts(settings.texts, settings.text_count, settings.input_size);
  rexit_stats stats{};
  const std::vector<Score>& scores = lock->score(lock.read(with_options(json.request(), settings)), start, stats);
  write_answer(json, session->session, scores, stats, settings.waited_us, session->answer);
  *answer_out = session->answer.c_str();
  *answer_bytes_out = session->answer.size();
  write_stats(stats, stats_out);
}

void run_trace(rexit_session* session, const rexit_request* request, float* log_odds_out, rexit_stats* stats_out) {
  const Clock::time_point start = Clock::now();
  const SessionLock lock(session);
  lock->reset_segments();
  required(log_odds_out, "log_odds_out");
  check_stats(stats_out);
  rexit_stats stats{};
  rexit_request without_rules = read_struct(request, "request");
  without_rules.policy = nullptr;
  without_rules.has_force_exit = 0;
  without_rules.deadline_us = 0;
  const std::vector<float>& log_odds = lock->trace(lock.read(without_rules), start, stats);
  std::copy(log_odds.begin(), log_odds.end(), log_odds_out);
  write_stats(stats, stats_out);
}

void check_execution(const Execution& options) {
  if (options.threads < 0) fail(REXIT_INVALID_ARGUMENT, "options.threads is ", options.threads, ", expected 0 or more");
  if (options.device_id < 0) fail(REXIT_INVALID_ARGUMENT, "options.device_id is ", options.device_id, ", expected 0 or more");
  if (options.own_threads != 0 && options.own_threads != 1)
    fail(REXIT_INVALID_ARGUMENT, "options.own_threads is ", options.own_threads, ", expected 0 or 1");
  if (options.spinning < REXIT_SPINNING_DEFAULT || options.spinning > REXIT_SPINNING_OFF)
    fail(REXIT_INVALID_ARGUMENT, "options.spinning is ", options.spinning, ", expected a rexit_spinning, 0 to 2");
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

void warn_if_calibrated_elsewhere(const Bundle& bundle, const Execution& execution) {
  Conditions here = conditions_of(bundle, execution);
  here.rexit = version;
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

void describe_variant(const std::shared_ptr<const Source>& source, std::size_t index, rexit_variant_info* info_out) {
  check_size(required(info_out, "info_out"), "info_out");
  const std::vector<std::string> names = variant_names(*source);
  if (index >= names.size())
    fail(REXIT_UNKNOWN_VARIANT, source->name(), ": variant index is ", index, ", expected less than ", names.size());
  const Bundle bundle(source, names[index].c_str());
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
  write_struct(info, info_out);
}

std::shared_ptr<const Source> read_archive(const void* archive, std::size_t bytes) {
  return open_archive("bundle", static_cast<const unsigned char*>(required(archive, "archive")), bytes);
}

// `make_source` returns the source.
template <class MakeSource>
void open_bundle(const MakeSource& make_source, const rexit_bundle_options* options, rexit_bundle** bundle_out) {
  std::shared_ptr<const Source> source = make_source();
  required(bundle_out, "bundle_out");
  const Execution execution = options != nullptr ? read_struct(options, "options") : Execution{};
  check_execution(execution);
  const auto make_factory = [&](const Bundle& bundle) { return make_backend_factory(bundle, execution); };
  const auto load_zero = [&](const Bundle& bundle) { return load_zero_graph(bundle, execution); };
  auto loaded = std::make_shared<const LoadedBundle>(std::move(source), execution.variant, make_factory, load_zero);
  log(REXIT_LOG_INFO, loaded->bundle.name() + ": opened variant " + loaded->bundle.variant().name);
  warn_if_calibrated_elsewhere(loaded->bundle, execution);
  *bundle_out = new rexit_bundle{std::move(loaded)};
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
  return guarded([&] { describe_variant(open_source(required(path, "path")), index, info_out); });
}

rexit_status rexit_bundle_verify(const char* path, const char* variant) {
  return guarded([&] { verify_bundle(open_source(required(path, "path")), variant); });
}

rexit_status rexit_bundle_open(const char* path, const rexit_bundle_options* options, rexit_bundle** bundle_out) {
  return guarded([&] { open_bundle([&] { return open_source(required(path, "path")); }, options, bundle_out); });
}

rexit_status rexit_archive_open(const void* archive, size_t archive_bytes, const rexit_bundle_options* options,
                                rexit_bundle** bundle_out) {
  return guarded([&] { open_bundle([&] { return read_archive(archive, archive_bytes); }, options, bundle_out); });
}

rexit_status rexit_archive_verify(const void* archive, size_t archive_bytes, const char* variant) {
  return guarded([&] { verify_bundle(read_archive(archive, archive_bytes), variant); });
}

rexit_status rexit_bundle_reload(const rexit_bundle* bundle, rexit_bundle** reloaded_out) {
  return guarded([&] {
    const LoadedBundle& opened = *required(bundle, "bundle")->loaded;
    required(reloaded_out, "reloaded_out");
    rexit_bundle* reloaded = nullptr;
    if (opened.bundle.changed()) {
      reloaded = new rexit_bundle{
          std::make_shared<const LoadedBundle>(opened, [](const Bundle& next) { return load_zero_graph(next, Execution{}); })};
      log(REXIT_LOG_INFO, opened.bundle.name() + ": reloaded variant " + opened.bundle.variant().name);
    }
    *reloaded_out = reloaded;
  });
}

void rexit_bundle_close(rexit_bundle* bundle) { delete bundle; }

rexit_status rexit_bundle_get_info(const rexit_bundle* bundle, rexit_bundle_info* info_out) {
  return guarded([&] {
    const Bundle& opened = required(bundle, "bundle")->loaded->bundle;
    check_size(required(info_out, "info_out"), "info_out");
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
    info.scores = opened.reads_scores(!opened.has_catalog()) ? 1 : 0;
    write_struct(info, info_out);
  });
}

rexit_status rexit_bundle_get_exit(const rexit_bundle* bundle, size_t exit, rexit_exit_info* info_out) {
  return guarded([&] {
    const Bundle& opened = required(bundle, "bundle")->loaded->bundle;
    check_size(required(info_out, "info_out"), "info_out");
    if (exit >= opened.exits())
      fail(REXIT_INVALID_ARGUMENT, "exit is ", exit, ", the bundle has exits 0 to ", opened.exits() - 1);
    const ExitRule& rule = opened.policy().exits[exit];
    const TopK& top_k = opened.policy().top_k;
    const auto move = [exit](const std::vector<float>& moves) { return exit < moves.size() ? moves[exit] : 0.0f; };
    const bool reads_earlier_heads = exit != 0 && !opened.policy().earlier.empty();
    write_struct({0, opened.depth(exit), rule.a, rule.b, rule.upper, rule.lower, opened.policy().patience, move(top_k.rise),
                  move(top_k.fall), reads_earlier_heads ? opened.policy().earlier_weights(exit) : nullptr,
                  opened.policy().keep_after(exit)},
                 info_out);
  });
}

rexit_status rexit_bundle_read_file(const rexit_bundle* bundle, const char* path, void* buffer, size_t capacity,
                                    size_t* bytes_out) {
  return guarded([&] {
    const Bundle& opened = required(bundle, "bundle")->loaded->bundle;
    required(bytes_out, "bytes_out");
    if (const char* problem = path_error(required(path, "path"))) fail(REXIT_INVALID_ARGUMENT, "path `", path, "` ", problem);
    const File file = opened.source()->open(path);
    if (file.size() <= capacity && file.size() != 0) std::memcpy(required(buffer, "buffer"), file.data(), file.size());
    *bytes_out = file.size();
  });
}

rexit_status rexit_session_create(const rexit_bundle* bundle, const rexit_session_options* options, rexit_session** session_out) {
  return guarded([&] {
    required(session_out, "session_out");
    const rexit_session_options settings = options != nullptr ? read_struct(options, "options") : rexit_session_options{};
    *session_out = new rexit_session(required(bundle, "bundle")->loaded, settings);
  });
}

void rexit_session_destroy(rexit_session* session) { delete session; }

rexit_status rexit_session_warm_up(rexit_session* session) {
  return guarded([&] { SessionLock(session)->warm_up(); });
}

rexit_status rexit_session_get_memory(const rexit_session* session, rexit_memory* memory_out) {
  return guarded([&] {
    check_size(required(memory_out, "memory_out"), "memory_out");
    const Memory memory = required(session, "session")->session.memory();
    write_struct({0, memory.prefixes, memory.buffers + session->json_bytes, memory.backend.working, memory.backend.weights,
                  memory.pinned, memory.backend.gpu},
                 memory_out);
  });
}

rexit_status rexit_session_clear_cache(rexit_session* session) {
  return guarded([&] { SessionLock(session)->clear_cache(); });
}

rexit_status rexit_session_trim(rexit_session* session) {
  return guarded([&] {
    const SessionLock lock(session);
    session->request = Request{};
    session->json.trim(0);
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
    check_size(required(stats_out, "stats_out"), "stats_out");
    const std::vector<SegmentStats> segments = required(session, "session")->session.segments();
    if (segment >= segments.size())
      fail(REXIT_INVALID_ARGUMENT, "segment is ", segment, ", the bundle has segments 0 to ", segments.size() - 1);
    const SegmentStats& stats = segments[segment];
    write_struct({0, stats.prefix_tokens, stats.candidates, stats.candidate_tokens, stats.prefix_us, stats.slate_us}, stats_out);
  });
}

rexit_status rexit_session_score(rexit_session* session, const rexit_request* request, rexit_score* scores_out,
                                 rexit_stats* stats_out) {
  return guarded([&] { run_score(session, request, scores_out, stats_out); });
}

rexit_status rexit_session_score_json(rexit_session* session, const char* request, size_t request_bytes,
                                      const rexit_json_options* options, const char** answer_out, size_t* answer_bytes_out,
                                      rexit_stats* stats_out) {
  return guarded([&] {
    required(session, "session");
    run_score_json(session, {request_bytes != 0 ? required(request, "request") : "", request_bytes}, options, answer_out,
                   answer_bytes_out, stats_out);
  });
}

rexit_status rexit_session_trace(rexit_session* session, const rexit_request* request, float* log_odds_out,
                                 rexit_stats* stats_out) {
  return guarded([&] { run_trace(session, request, log_odds_out, stats_out); });
}

rexit_status rexit_session_check_golden(rexit_session* session, size_t slate, rexit_golden_check* check_out) {
  return guarded([&] {
    const SessionLock lock(session);
    check_size(required(check_out, "check_out"), "check_out");
    session->golden = check_golden(session->session, slate);
    const GoldenCheck& check = session->golden;
    write_struct({0, check.slates, check.candidates, check.tolerance, check.worst, check.prompt.c_str(), check.log_odds.c_str(),
                  check.trace.data()},
                 check_out);
  });
}

rexit_status rexit_session_prompt(rexit_session* session, const rexit_request* request, int32_t* tokens_out, size_t capacity,
                                  size_t* offsets_out, size_t* count_out) {
  return guarded([&] {
    const SessionLock lock(session);
    required(count_out, "count_out");
    const Prompt& prompt = lock->prompt(lock.read(read_struct(request, "request")));
    if (prompt.tokens.size() <= capacity) {
      required(tokens_out, "tokens_out");
      required(offsets_out, "offsets_out");
      std::copy(prompt.tokens.begin(), prompt.tokens.end(), tokens_out);
      std::copy(prompt.offsets.begin(), prompt.offsets.end(), offsets_out);
    }
    *count_out = prompt.tokens.size();
  });
}

}  // extern "C"

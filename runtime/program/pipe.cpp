#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "audit_log.hpp"
#include "commands.hpp"
#include "failure.hpp"
#include "ids.hpp"
#include "lines.hpp"
#include "output.hpp"

namespace rexit::program {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t max_line_bytes = std::size_t{1} << 20;
constexpr int max_json_depth = 8;
constexpr std::size_t queue_per_session = 4;

struct Job {
  ordered_json id;
  Id user;
  std::vector<Id> items;
  Request request;
  std::optional<Clock::time_point> deadline;
};

ordered_json error_json(const ordered_json& id, rexit_status status, const std::string& message) {
  return {{"id", id}, {"error", {{"status", rexit_status_name(status)}, {"message", message}}}};
}

json parse_object(const std::string& line) {
  const auto check_depth = [](int depth, json::parse_event_t, json&) {
    if (depth > max_json_depth) throw Failure("nested deeper than " + std::to_string(max_json_depth));
    return true;
  };
  try {
    json value = json::parse(line, check_depth);
    if (!value.is_object()) throw Failure(std::string("a JSON object expected, this is ") + value.type_name());
    return value;
  } catch (const json::exception& error) {
    const std::string text = error.what();  // "[json.exception.parse_error.101] parse error at line 1, …"
    throw Failure("not valid JSON: " + text.substr(std::min(text.size(), text.find("] ") + 2)));
  }
}

std::int64_t integer(const json& value, const std::string& key, std::int64_t low, std::int64_t high) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{INT64_MAX}) ||
      value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
    throw Failure(key + " is " + (value.is_structured() ? value.type_name() : value.dump()) + ", expected an integer from " +
                  std::to_string(low) + " to " + std::to_string(high));
  return value.get<std::int64_t>();
}

void check_array(const json& value, const char* key) {
  if (!value.is_array()) throw Failure(std::string(key) + " is " + value.type_name() + ", expected an array");
}

Recent parse_recent_json(const json& value, bool strings) {
  Recent recent;
  check_array(value, "recent");
  for (const json& entry : value) {
    const bool has_verdict = entry.is_array();
    if (has_verdict && (entry.size() != 2 || !entry[1].is_boolean()))
      throw Failure("recent has " + entry.dump() + ", expected ITEM or [ITEM, true] or [ITEM, false]");
    recent.emplace_back(parse_id(has_verdict ? entry[0] : entry, strings, "item"), !has_verdict || entry[1].get<bool>());
  }
  return recent;
}

// Throws Failure for an invalid request. A null value is the same as a missing key. `received`: when its line was read.
std::unique_ptr<Job> parse_job(const json& object, const ordered_json& id, const rexit_bundle_info& info,
                               Clock::time_point received) {
  const bool string_items = info.string_item_ids != 0;
  for (const char* key : {"user", "items"})
    if (!object.contains(key)) throw Failure(std::string("no `") + key + "`, expected `user` and `items`");
  std::vector<Id> items;
  check_array(object["items"], "items");
  for (const json& item : object["items"]) items.push_back(parse_id(item, string_items, "item"));
  if (items.empty()) throw Failure("no items given, expected at least one id");
  const Id user = parse_id(object["user"], info.string_user_ids != 0, "user");
  auto job = std::make_unique<Job>(Job{id, user, items, Request(user), std::nullopt});
  job->request.items(std::move(items));
  for (const auto& [key, value] : object.items()) {
    if (key == "id" || key == "user" || key == "items" || value.is_null()) continue;
    if (key == "recent") {
      add_recent(job->request, parse_recent_json(value, string_items));
    } else if (key == "as_of") {
      job->request.as_of(integer(value, key, INT64_MIN, INT64_MAX));
    } else if (key == "context") {
      add_context(job->request, value);
    } else if (key == "request") {
      add_request_texts(job->request, value);
    } else if (key == "top_k") {
      job->request.top_k(static_cast<std::size_t>(integer(value, key, 0, INT32_MAX)));
    } else if (key == "force_exit") {
      job->request.force_exit(static_cast<std::uint32_t>(integer(value, key, 0, INT32_MAX)));
    } else if (key == "deadline_ms") {
      if (!value.is_number()) throw Failure(std::string("deadline_ms is ") + value.type_name() + ", expected a number");
      job->deadline = received + std::chrono::microseconds(deadline_us(value.get<double>()));
    } else {
      throw Failure("unknown key " + on_one_line(key) +
                    ", expected id, user, items, recent, as_of, context, request, top_k, deadline_ms or force_exit");
    }
  }
  return job;
}

// Writes whole lines to stdout, from any thread. Stops at the first line that cannot be written.
class AnswerWriter {
 public:
  void write(const ordered_json& answer) {
    const std::string line = on_one_line(answer) + "\n";
    const std::lock_guard lock(mutex_);
    for (std::size_t offset = 0; offset < line.size() && error_ == 0;) {
      const ssize_t count = ::write(STDOUT_FILENO, line.data() + offset, line.size() - offset);
      if (count >= 0) {
        offset += static_cast<std::size_t>(count);
      } else if (errno != EINTR) {
        error_ = errno;
        Lines::stop();
      }
    }
  }
  int error() const noexcept { return error_; }

 private:
  std::mutex mutex_;
  std::atomic<int> error_{0};
};

// A session with its thread and its queue. Audits what the session drew while the queue is empty; a request interrupts an audit,
// which begins again later.
class Worker {
 public:
  // `audits`: null: the session draws nothing.
  Worker(const Bundle& bundle, const std::vector<std::size_t>& depths, const std::vector<std::string>& objectives,
         const PipeOptions& options, AnswerWriter& answers, AuditLog* audits)
      : session_(bundle, options.cache_mib << 20, 0, options.audit),
        depths_(depths),
        objectives_(objectives),
        answers_(answers),
        audits_(audits) {
    session_.warm_up();
    thread_ = std::thread([this] { work(); });
  }
  ~Worker() {
    push(nullptr);
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Waits while the queue is full. Null ends the thread.
  void push(std::unique_ptr<Job> job) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return jobs_.size() < queue_per_session; });
    if (auditing_ && job != nullptr) session_.cancel();
    jobs_.push_back(std::move(job));
    changed_.notify_all();
  }

 private:
  std::unique_ptr<Job> pop() {
    std::unique_lock lock(mutex_);
    auditing_ = false;
    changed_.wait(lock, [this] { return !jobs_.empty(); });
    auto job = std::move(jobs_.front());
    jobs_.pop_front();
    changed_.notify_all();
    return job;
  }

  void work() {
    while (auto job = pop()) {
      answers_.write(answer(*job));
      if (drawn_) kept_ = std::move(job);
      if (kept_ && begin_audit()) audit();
    }
  }

  // Returns false if a request waits.
  bool begin_audit() {
    const std::lock_guard lock(mutex_);
    return auditing_ = jobs_.empty() || jobs_.front() == nullptr;
  }

  void audit() try {
    audits_->write(kept_->user, kept_->items, session_.audit());
    kept_ = nullptr;
  } catch (const std::exception& error) {
    const auto* from_rexit = dynamic_cast<const Error*>(&error);
    if (from_rexit != nullptr && from_rexit->status() == REXIT_CANCELLED) return;
    std::fprintf(stderr, "rexit-run: warning: audit: skipped a slate: %s\n", error.what());
    kept_ = nullptr;
  }

  ordered_json answer(Job& job) try {
    drawn_ = false;
    if (job.deadline) {
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(*job.deadline - Clock::now()).count();
      if (left <= 0) return error_json(job.id, REXIT_DEADLINE, "the deadline passed while the request waited");
      job.request.deadline_us(left);
    }
    const Scores scores = session_.score(job.request);
    drawn_ = scores.stats.draw == REXIT_DRAWN;
    ordered_json line{{"id", job.id}};
    line.update(answer_json(scores, job.items, depths_, objectives_));
    return line;
  } catch (const Error& error) {
    return error_json(job.id, error.status(), error.what());
  } catch (const std::exception& error) {
    return error_json(job.id, REXIT_INTERNAL, error.what());
  }

  Session session_;
  const std::vector<std::size_t>& depths_;
  const std::vector<std::string>& objectives_;
  AnswerWriter& answers_;
  AuditLog* audits_;
  bool drawn_ = false;         // the last answer
  std::unique_ptr<Job> kept_;  // of the slate that waits for its audit
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> jobs_;
  bool auditing_ = false;  // guarded, as jobs_
  std::thread thread_;
};

// Null: nothing is audited.
std::unique_ptr<AuditLog> open_audit_log(const PipeOptions& options, const Bundle& bundle) {
  if (!(options.audit >= 0 && options.audit <= 1))
    throw Failure("--audit is " + general(options.audit) + ", expected a share from 0 to 1");
  if ((options.audit > 0) == options.audit_log.empty())
    throw Failure(options.audit > 0 ? "--audit without --audit-log, expected a file for the audited slates"
                                    : "--audit-log is for --audit, expected a share above 0");
  if (options.audit == 0) return nullptr;
  if (bundle.info().calibrated == 0)
    throw Failure(options.bundle + ": has no policy to audit, expected one: run `rexit calibrate`");
  return std::make_unique<AuditLog>(options.audit_log, bundle);
}

}  // namespace

int pipe(const PipeOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  Lines lines(STDIN_FILENO, max_line_bytes);
  const Bundle bundle(options.bundle, options.options);
  const rexit_bundle_info info = bundle.info();
  const std::vector<std::size_t> layers = depths(bundle);
  const std::vector<std::string> objectives = objective_names(bundle);
  AnswerWriter answers;
  const std::unique_ptr<AuditLog> audits = open_audit_log(options, bundle);
  std::vector<std::unique_ptr<Worker>> workers;
  while (workers.size() < options.sessions)
    workers.push_back(std::make_unique<Worker>(bundle, layers, objectives, options, answers, audits.get()));
  std::fprintf(stderr, "rexit-run: serving %s, variant %s, sessions %zu\n", options.bundle.c_str(), info.variant, workers.size());

  std::string line;
  for (Lines::Next next; (next = lines.next(line)) != Lines::Next::end;) {
    const auto received = Clock::now();
    ordered_json id;
    try {
      if (next == Lines::Next::too_long) throw Failure("longer than " + std::to_string(max_line_bytes) + " bytes");
      if (line.find_first_not_of(" \t\r") == line.npos) continue;
      const json object = parse_object(line);
      if (object.contains("id")) {
        if (object["id"].is_structured())
          throw Failure(std::string("id is ") + object["id"].type_name() + ", expected a string or a number");
        id = object["id"];
      }
      auto job = parse_job(object, id, info, received);
      const std::size_t index = std::hash<Id>()(job->user) % workers.size();  // the session that keeps this user's prefix
      workers[index]->push(std::move(job));
    } catch (const Failure& failure) {
      answers.write(error_json(id, REXIT_INVALID_ARGUMENT, "line " + std::to_string(lines.count()) + ": " + failure.what()));
    }
  }
  workers.clear();  // waits for their answers
  if (answers.error() != 0)
    throw Failure(std::string("stdout: cannot be written: ") + std::strerror(answers.error()), other_failure);
  return 0;
}

}  // namespace rexit::program

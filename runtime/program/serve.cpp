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

constexpr std::size_t longest_line = std::size_t{1} << 20;
constexpr int deepest = 8;
constexpr std::size_t waiting_per_session = 4;

struct Job {
  ordered_json id;
  Id user;
  std::vector<Id> items;
  Request request;
  std::optional<Clock::time_point> deadline;
};

ordered_json refusal(const ordered_json& id, rexit_status status, const std::string& message) {
  return {{"id", id}, {"error", {{"status", rexit_status_name(status)}, {"message", message}}}};
}

json parsed(const std::string& line) {
  const auto bounded = [](int depth, json::parse_event_t, json&) {
    if (depth > deepest) throw Failure("nested deeper than " + std::to_string(deepest));
    return true;
  };
  try {
    json value = json::parse(line, bounded);
    if (!value.is_object()) throw Failure(std::string("a JSON object expected, this is ") + value.type_name());
    return value;
  } catch (const json::exception& error) {
    const std::string text = error.what();  // "[json.exception.parse_error.101] parse error at line 1, …"
    throw Failure("not valid JSON: " + text.substr(std::min(text.size(), text.find("] ") + 2)));
  }
}

std::int64_t integer(const json& value, const std::string& key, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{INT64_MAX}) ||
      value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
    throw Failure(key + " is " + (value.is_structured() ? value.type_name() : value.dump()) + ", expected an integer from " +
                  std::to_string(least) + " to " + std::to_string(most));
  return value.get<std::int64_t>();
}

void check_array(const json& value, const char* key) {
  if (!value.is_array()) throw Failure(std::string(key) + " is " + value.type_name() + ", expected an array");
}

Recent recent_of(const json& value, bool strings) {
  Recent recent;
  check_array(value, "recent");
  for (const json& one : value) {
    const bool has_verdict = one.is_array();
    if (has_verdict && (one.size() != 2 || !one[1].is_boolean()))
      throw Failure("recent has " + one.dump() + ", expected ITEM or [ITEM, true] or [ITEM, false]");
    recent.emplace_back(parse_id(has_verdict ? one[0] : one, strings, "item"), !has_verdict || one[1].get<bool>());
  }
  return recent;
}

// Throws Failure for what is not a request. A key that is null is as one that is not there.
std::unique_ptr<Job> job_of(const json& value, const ordered_json& id, const rexit_bundle_info& info, Clock::time_point read) {
  const bool string_items = info.string_item_ids != 0;
  for (const char* key : {"user", "items"})
    if (!value.contains(key)) throw Failure(std::string("no `") + key + "`, expected `user` and `items`");
  std::vector<Id> items;
  check_array(value["items"], "items");
  for (const json& item : value["items"]) items.push_back(parse_id(item, string_items, "item"));
  if (items.empty()) throw Failure("no items given, expected at least one id");
  const Id user = parse_id(value["user"], info.string_user_ids != 0, "user");
  auto job = std::make_unique<Job>(Job{id, user, items, Request(user), std::nullopt});
  job->request.items(std::move(items));
  for (const auto& [key, given] : value.items()) {
    if (key == "id" || key == "user" || key == "items" || given.is_null()) continue;
    if (key == "recent") {
      add_recent(job->request, recent_of(given, string_items));
    } else if (key == "as_of") {
      job->request.as_of(integer(given, key, INT64_MIN, INT64_MAX));
    } else if (key == "top_k") {
      job->request.top_k(static_cast<std::size_t>(integer(given, key, 1, INT32_MAX)));
    } else if (key == "force_exit") {
      job->request.force_exit(static_cast<std::uint32_t>(integer(given, key, 0, INT32_MAX)));
    } else if (key == "deadline_ms") {
      if (!given.is_number()) throw Failure(std::string("deadline_ms is ") + given.type_name() + ", expected a number");
      job->deadline = read + std::chrono::microseconds(deadline_us(given.get<double>()));
    } else {
      throw Failure("unknown key " + on_one_line(key) +
                    ", expected id, user, items, recent, as_of, top_k, deadline_ms or force_exit");
    }
  }
  return job;
}

// Lines on stdout, whole, from any thread. After the first that cannot be written there are no more.
class Answers {
 public:
  void write(const ordered_json& answer) {
    const std::string line = on_one_line(answer) + "\n";
    const std::lock_guard lock(mutex_);
    for (std::size_t done = 0; done < line.size() && error_ == 0;) {
      const ssize_t wrote = ::write(STDOUT_FILENO, line.data() + done, line.size() - done);
      if (wrote >= 0) {
        done += static_cast<std::size_t>(wrote);
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

// A session, its thread, and the requests that wait for it.
class Worker {
 public:
  Worker(const Bundle& bundle, const std::vector<std::size_t>& depths, std::size_t cache_bytes, Answers& answers)
      : session_(bundle, cache_bytes), depths_(depths), answers_(answers) {
    session_.warm_up();
    thread_ = std::thread([this] { work(); });
  }
  ~Worker() {
    push(nullptr);
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Waits while `waiting_per_session` are waiting. Null: the last one.
  void push(std::unique_ptr<Job> job) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return jobs_.size() < waiting_per_session; });
    jobs_.push_back(std::move(job));
    changed_.notify_all();
  }

 private:
  std::unique_ptr<Job> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !jobs_.empty(); });
    auto job = std::move(jobs_.front());
    jobs_.pop_front();
    changed_.notify_all();
    return job;
  }

  void work() {
    while (const auto job = pop()) answers_.write(answered(*job));
  }

  ordered_json answered(Job& job) try {
    if (job.deadline) {
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(*job.deadline - Clock::now()).count();
      if (left <= 0) return refusal(job.id, REXIT_DEADLINE, "the deadline passed while the request waited");
      job.request.deadline_us(left);
    }
    ordered_json line{{"id", job.id}};
    line.update(answer(session_.score(job.request), job.items, depths_));
    return line;
  } catch (const Error& error) {
    return refusal(job.id, error.status(), error.what());
  } catch (const std::exception& error) {
    return refusal(job.id, REXIT_INTERNAL, error.what());
  }

  Session session_;
  const std::vector<std::size_t>& depths_;
  Answers& answers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> jobs_;
  std::thread thread_;
};

}  // namespace

int serve(const ServeOptions& options) {
  signal(SIGPIPE, SIG_IGN);
  Lines lines(STDIN_FILENO, longest_line);
  const Bundle bundle(options.bundle, options.options);
  const rexit_bundle_info info = bundle.info();
  const std::vector<std::size_t> layers = depths(bundle);
  Answers answers;
  std::vector<std::unique_ptr<Worker>> workers;
  while (workers.size() < options.sessions)
    workers.push_back(std::make_unique<Worker>(bundle, layers, options.cache_bytes, answers));
  std::fprintf(stderr, "rexit-run: serving %s, variant %s, sessions %zu\n", options.bundle.c_str(), info.variant, workers.size());

  std::string line;
  for (Lines::Next next; (next = lines.next(line)) != Lines::Next::end;) {
    const auto read = Clock::now();
    ordered_json id;
    try {
      if (next == Lines::Next::too_long) throw Failure("longer than " + std::to_string(longest_line) + " bytes");
      if (line.find_first_not_of(" \t\r") == line.npos) continue;
      const json value = parsed(line);
      if (value.contains("id")) {
        if (value["id"].is_structured())
          throw Failure(std::string("id is ") + value["id"].type_name() + ", expected a string or a number");
        id = value["id"];
      }
      auto job = job_of(value, id, info, read);
      const std::size_t chosen = std::hash<Id>()(job->user) % workers.size();  // who keeps this user's prefix
      workers[chosen]->push(std::move(job));
    } catch (const Failure& failure) {
      answers.write(refusal(id, REXIT_INVALID_ARGUMENT, "line " + std::to_string(lines.count()) + ": " + failure.what()));
    }
  }
  workers.clear();  // once they have answered
  if (answers.error() != 0)
    throw Failure(std::string("stdout: cannot be written: ") + std::strerror(answers.error()), other_failure);
  return 0;
}

}  // namespace rexit::program

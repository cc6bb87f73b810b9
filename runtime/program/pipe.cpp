#include <poll.h>
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
#include "lines.hpp"

namespace rexit::program {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::size_t max_line_bytes = std::size_t{1} << 20;
constexpr std::size_t queue_per_session = 4;

std::string dump(const ordered_json& value) { return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

// What must be known of a line before the library reads it.
struct Peek {
  std::string id;                  // JSON; empty: none
  std::uint64_t prefix_owner = 0;  // equal for requests that share a prefix: a hash of the user, or of the prefix's tokens
  bool has_owner = false;          // false: there is no prefix, so any session will do
};

class PeekReader final : public json::json_sax_t {
 public:
  explicit PeekReader(Peek& peek) : peek_(peek) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(json::number_integer_t value) override { return read(value, std::to_string(value)); }
  bool number_unsigned(json::number_unsigned_t value) override { return read(value, std::to_string(value)); }
  bool number_float(json::number_float_t value, const json::string_t& text) override { return read(value, text); }
  bool string(json::string_t& value) override { return read(value, is_id() ? dump(value) : ""); }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_, true; }
  bool end_object() override { return --depth_, true; }
  bool start_array(std::size_t) override { return ++depth_, true; }
  bool end_array() override { return --depth_, true; }
  bool key(json::string_t& name) override {
    if (depth_ == 1) key_ = name;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }

 private:
  bool is_id() const { return depth_ == 1 && key_ == "id"; }

  template <class Value>
  bool read(const Value& value, const std::string& text) {
    if (is_id()) peek_.id = text;
    if ((depth_ == 1 && key_ == "user") || (depth_ == 2 && key_ == "prefix")) {
      peek_.has_owner = true;
      peek_.prefix_owner = peek_.prefix_owner * 31 + std::hash<Value>()(value);
    }
    return true;
  }

  Peek& peek_;
  std::size_t depth_ = 0;
  std::string key_;  // of the outermost object
};

// Never fails: of a line that is no request, returns what comes before the first fault.
Peek peek(const std::string& line) {
  Peek peek;
  PeekReader reader(peek);
  json::sax_parse(line, &reader);
  return peek;
}

struct Job {
  std::string request, id;  // as they were read
  std::size_t line;
  Lines::Clock::time_point arrival;
};

// A request without an id is known by its line.
std::string error_line(const std::string& id, std::size_t line, rexit_status status, const std::string& message) {
  const std::string where = id.empty() ? "line " + std::to_string(line) + ": " : "";
  const ordered_json error = {{"status", rexit_status_name(status)}, {"message", where + message}};
  return (id.empty() ? "{" : "{\"id\":" + id + ",") + "\"error\":" + dump(error) + "}";
}

// Writes whole lines to stdout, from any thread. Stops at the first line that cannot be written.
class AnswerWriter {
 public:
  void write(std::string line) {
    line += '\n';
    const std::lock_guard lock(mutex_);
    for (std::size_t offset = 0; offset < line.size() && error_ == 0;) {
      const ssize_t count = ::write(STDOUT_FILENO, line.data() + offset, line.size() - offset);
      if (count >= 0) {
        offset += static_cast<std::size_t>(count);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {  // whoever shares it has made it non-blocking
        pollfd writable{STDOUT_FILENO, POLLOUT, 0};
        ::poll(&writable, 1, -1);
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

// A session with its thread and its queue.
class Worker {
 public:
  Worker(const Bundle& bundle, const Options& options, AnswerWriter& answers)
      : session_(bundle, options.cache_mib << 20), answers_(answers) {
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
    jobs_.push_back(std::move(job));
    ++unanswered_;
    changed_.notify_all();
  }
  std::size_t jobs() const noexcept { return unanswered_; }  // waiting or running

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
    while (const auto job = pop()) {
      answers_.write(answer(*job));
      --unanswered_;
    }
  }

  std::string answer(const Job& job) try {
    CallOptions options;
    options.waited_us = std::chrono::duration_cast<std::chrono::microseconds>(Lines::Clock::now() - job.arrival).count();
    return session_.score_json(job.request, options).text;
  } catch (const Error& error) {
    return error_line(job.id, job.line, error.status(), error.what());
  } catch (const std::exception& error) {
    return error_line(job.id, job.line, REXIT_INTERNAL, error.what());
  }

  Session session_;
  AnswerWriter& answers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> jobs_;
  std::atomic<std::size_t> unanswered_{0};
  std::thread thread_;
};

// The session with the fewest jobs; of equals the one after the last.
std::size_t freest(const std::vector<std::unique_ptr<Worker>>& workers) {
  static std::size_t last = 0;
  std::size_t best = (last + 1) % workers.size();
  for (std::size_t i = 1; i < workers.size(); ++i)
    if (const std::size_t next = (last + 1 + i) % workers.size(); workers[next]->jobs() < workers[best]->jobs()) best = next;
  return last = best;
}

}  // namespace

int pipe(const Options& options) {
  signal(SIGPIPE, SIG_IGN);
  Lines lines(STDIN_FILENO, max_line_bytes);
  const Bundle bundle(options.bundle, options.execution);
  AnswerWriter answers;
  std::vector<std::unique_ptr<Worker>> workers;
  while (workers.size() < options.sessions) workers.push_back(std::make_unique<Worker>(bundle, options, answers));
  std::fprintf(stderr, "rexit-run: serving %s, variant %s, sessions %zu\n", options.bundle.c_str(), bundle.info().variant,
               workers.size());

  std::string line;
  for (Lines::Next next; answers.error() == 0 && (next = lines.next(line)) != Lines::Next::end;) {
    if (next == Lines::Next::too_long) {
      answers.write(
          error_line({}, lines.count(), REXIT_INVALID_ARGUMENT, "longer than " + std::to_string(max_line_bytes) + " bytes"));
    } else if (line.find_first_not_of(" \t\r") != line.npos) {
      Peek request = peek(line);
      // The session that has this user's prefix. A hash of an integer may be the integer, and ids may have a stride.
      const std::size_t index =
          request.has_owner ? (request.prefix_owner * 0x9e3779b97f4a7c15u >> 32) % workers.size() : freest(workers);
      workers[index]->push(std::make_unique<Job>(Job{line, std::move(request.id), lines.count(), lines.arrival()}));
    }
  }
  workers.clear();  // waits for their answers
  if (answers.error() != 0)
    throw Failure(std::string("stdout: cannot be written: ") + std::strerror(answers.error()), other_failure);
  return 0;
}

}  // namespace rexit::program

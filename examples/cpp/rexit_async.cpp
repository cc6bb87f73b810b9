// Asynchronous scoring: a thread of the program's own scores what waits, several users in one pass.
//
//   rexit_async BUNDLE <requests.txt
//
// Each line of stdin is a request: USER ITEM... Prints a line for each, in order: the user, then the best item and its
// probability, or the error.
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <future>
#include <iostream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rexit/rexit.hpp"

namespace {

// Any thread may call score(). What arrives during a pass runs in the next one.
class Scorer {
 public:
  explicit Scorer(const rexit::Bundle& bundle) : session_(bundle), thread_([this] { work(); }) {}
  // Answers what is waiting, then ends.
  ~Scorer() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    arrived_.notify_one();
    thread_.join();
  }
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;

  std::future<rexit::Outcome> score(rexit::Request request) {
    std::promise<rexit::Outcome> promise;
    std::future<rexit::Outcome> future = promise.get_future();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(std::move(request));
      promises_.push_back(std::move(promise));
    }
    arrived_.notify_one();
    return future;
  }

 private:
  void work() {
    for (;;) {
      std::vector<rexit::Request> requests;
      std::vector<std::promise<rexit::Outcome>> promises;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        arrived_.wait(lock, [this] { return closed_ || !requests_.empty(); });
        if (requests_.empty()) return;
        requests.swap(requests_);
        promises.swap(promises_);
      }
      try {
        std::vector<rexit::Outcome> outcomes = session_.score_many(requests);
        for (std::size_t i = 0; i < promises.size(); ++i) promises[i].set_value(std::move(outcomes[i]));
      } catch (...) {
        for (auto& promise : promises) promise.set_exception(std::current_exception());
      }
    }
  }

  rexit::Session session_;
  std::mutex mutex_;  // guards the rest, except the thread
  std::condition_variable arrived_;
  std::vector<rexit::Request> requests_;
  std::vector<std::promise<rexit::Outcome>> promises_;
  bool closed_ = false;
  std::thread thread_;
};

rexit::Id parse(const std::string& text, bool is_string) {
  if (is_string) return text;
  return std::int64_t{std::stoll(text)};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: rexit_async BUNDLE <requests.txt\n");
    return 2;
  }
  try {
    const rexit::Bundle bundle(argv[1]);
    const rexit_bundle_info info = bundle.info();
    Scorer scorer(bundle);
    struct Pending {
      std::vector<std::string> words;
      std::future<rexit::Outcome> outcome;
    };
    std::deque<Pending> pending;
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream text(line);
      std::vector<std::string> words;
      for (std::string word; text >> word;) words.push_back(word);
      if (words.empty()) continue;
      std::vector<rexit::Id> items;
      for (std::size_t i = 1; i < words.size(); ++i) items.push_back(parse(words[i], info.string_item_ids != 0));
      rexit::Request request(parse(words[0], info.string_user_ids != 0));
      request.items(std::move(items)).top_k(1);
      pending.push_back({std::move(words), scorer.score(std::move(request))});
    }
    for (Pending& request : pending) {
      const rexit::Outcome outcome = request.outcome.get();
      if (outcome.status == REXIT_OK) {
        const rexit_score& best = outcome.scores.scores[0];
        std::printf("%s: %s %.4f\n", request.words[0].c_str(), request.words[1 + best.item].c_str(),
                    static_cast<double>(best.probability));
      } else {
        std::printf("%s: %s (%s)\n", request.words[0].c_str(), outcome.error.c_str(), rexit_status_name(outcome.status));
      }
    }
    return 0;
  } catch (const rexit::Error& error) {
    std::fprintf(stderr, "rexit_async: %s (%s)\n", error.what(), rexit_status_name(error.status()));
  } catch (const std::exception&) {
    std::fprintf(stderr, "rexit_async: USER and ITEM must be integers, as this bundle's ids are\n");
  }
  return 1;
}

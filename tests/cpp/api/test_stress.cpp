// Sessions of a bundle score in their own threads, while other threads open and close that bundle, its sessions and other
// sessions. What matters runs under the thread sanitizer: `make sanitize`.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

constexpr int sessions = 8, rounds = 12;
const std::vector<rexit::Id> slate{std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}, std::int64_t{3}};

rexit::Request request(int round) { return rexit::Request(std::int64_t{100 + 3 * (round % 5)}).items(slate); }

std::vector<float> log_odds(const rexit::Scores& scores) {
  std::vector<float> all;
  for (const rexit_score& score : scores.scores) all.push_back(score.log_odds);
  return all;
}

// The contents of the cache change roundings.
bool differ(const std::vector<float>& log_odds, const std::vector<float>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!(std::fabs(log_odds[i] - expected[i]) <= 1e-3f)) return true;
  return log_odds.size() != expected.size();
}

TEST(Stress, SessionsScoreWhileBundlesAndSessionsComeAndGo) {
  auto bundle = std::make_unique<rexit::Bundle>(sound_bundle());
  std::vector<std::vector<float>> expected;
  {
    rexit::Session alone(*bundle);
    for (int round = 0; round < rounds; ++round) expected.push_back(log_odds(alone.score(request(round))));
  }

  std::atomic<int> wrong{0}, running{sessions};
  std::atomic<bool> closed{false};
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  for (int s = 0; s < sessions; ++s)
    threads.emplace_back([&, s] {
      rexit::Session session(*bundle);
      ++ready;
      while (!closed) std::this_thread::yield();  // until the handle of the bundle is gone
      for (int round = 0; round < rounds; ++round) {
        const int which = (round + s) % rounds;
        if (differ(log_odds(session.score(request(which))), expected[static_cast<std::size_t>(which)])) ++wrong;
        if (round % 4 == s % 4) session.trim();
        if (round % 5 == s % 5) session.clear_cache();
      }
      --running;
    });
  while (ready != sessions) std::this_thread::yield();
  bundle.reset();  // its sessions stay usable
  closed = true;
  for (int o = 0; o < 2; ++o)
    threads.emplace_back([&] {
      do {
        const rexit::Bundle opened(sound_bundle());
        rexit::Session first(opened), second(opened);
        first.warm_up();
        if (differ(log_odds(second.score(request(0))), expected[0])) ++wrong;
      } while (running != 0);
    });
  threads.emplace_back([&] {  // failures: each thread has its own last error
    do {
      try {
        rexit::Bundle missing(sound_bundle() + "/nowhere");
        ++wrong;
      } catch (const rexit::Error& error) {
        if (error.status() != REXIT_NOT_FOUND) ++wrong;
      }
      rexit::verify(sound_bundle());
      rexit_set_log([](void*, rexit_log_level, const char*) {}, nullptr, REXIT_LOG_DEBUG);
      rexit_set_log(nullptr, nullptr, REXIT_LOG_ERROR);
    } while (running != 0);
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace

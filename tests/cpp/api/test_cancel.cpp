// rexit_session_cancel over the real backend, from other threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

using std::chrono::milliseconds;

const std::vector<rexit::Id> slate{std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}, std::int64_t{3}};

rexit::Request request() { return rexit::Request(std::int64_t{106}).items(slate); }

rexit::Request request_of(int candidates) {
  std::vector<rexit::Id> items;
  for (int i = 0; i < candidates; ++i) items.push_back(slate[static_cast<std::size_t>(i) % slate.size()]);
  return rexit::Request(std::int64_t{106}).items(items);
}

// Hundreds of passes.
rexit::Request long_request() { return request_of(10'000); }

class CancelTest : public testing::Test {
 protected:
  rexit::Bundle bundle{sound_bundle()};
  rexit::Session session{bundle};
  const std::vector<float> expected = session.trace(request()).log_odds;

  void answers_as_ever() {
    const rexit::Scores scores = session.score(request());
    for (std::size_t i = 0; i < slate.size(); ++i) EXPECT_EQ(scores.scores[i].log_odds, expected[3 * i + 2]);
  }

  // The status that `call` ends with while another thread keeps cancelling.
  template <class Call>
  rexit_status cancelled(Call call) {
    std::atomic<bool> done{false};
    std::thread other([&] {
      while (!done) {
        std::this_thread::sleep_for(milliseconds(2));
        session.cancel();
      }
    });
    rexit_status status = REXIT_OK;
    try {
      call();
    } catch (const rexit::Error& error) {
      status = error.status();
      EXPECT_NE(std::string(error.what()).find("cancelled"), std::string::npos) << error.what();
    }
    done = true;
    other.join();
    return status;
  }
};

// Before half of its work is done; the better of three, since the cancelling thread may have to wait for a core.
TEST_F(CancelTest, TheCallEndsSoon) {
  const auto time_of = [](auto call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::steady_clock::now() - start;
  };
  const rexit::Request many = long_request();
  const rexit::Request half = request_of(5'000);
  auto cancelled_after = std::chrono::steady_clock::duration::max();
  for (int round = 0; round < 3; ++round) {
    const auto after = time_of([&] { EXPECT_EQ(cancelled([&] { session.score(many); }), REXIT_CANCELLED); });
    cancelled_after = std::min(cancelled_after, after);
  }
  EXPECT_LT(cancelled_after, time_of([&] { session.score(half); }));
}

TEST_F(CancelTest, AWarmUpEndsToo) {
  EXPECT_EQ(cancelled([&] {
              for (int i = 0; i < 100'000; ++i) session.warm_up();
            }),
            REXIT_CANCELLED);
  session.warm_up();
  session.clear_cache();
  answers_as_ever();
}

// A cancellation counts from the beginning of the call, also while the request is read.
TEST_F(CancelTest, WhileARequestIsRead) {
  std::string text = R"({"user": 106, "items": [8], "recent": [8)";
  for (int i = 1; i < 100'000; ++i) text += ",8";
  text += "]}";
  std::atomic<rexit_status> status{REXIT_OK};
  std::atomic<bool> done{false};
  std::thread scoring([&] {
    do {
      status = REXIT_OK;
      try {
        session.score_json(text);
      } catch (const rexit::Error& error) {
        status = error.status();
      }
    } while (status == REXIT_INVALID_ARGUMENT);  // clear_cache had the session
    done = true;
  });
  const auto is_idle = [&] {
    try {
      session.clear_cache();
      return true;
    } catch (const rexit::Error&) {
      return false;
    }
  };
  while (!done && is_idle()) std::this_thread::sleep_for(std::chrono::microseconds(50));
  session.cancel();
  scoring.join();
  EXPECT_EQ(status, REXIT_CANCELLED);
}

TEST_F(CancelTest, OnlyThisSession) {
  rexit::Session other(bundle);
  std::atomic<bool> done{false};
  std::thread cancelling([&] {
    while (!done) session.cancel();
  });
  for (int i = 0; i < 50; ++i) EXPECT_EQ(other.score(request()).scores[0].log_odds, expected[2]);
  done = true;
  cancelling.join();
}

// Cancelled at any moment, a call gives correct answers or none, and the next call is not affected.
TEST_F(CancelTest, AtAnyMoment) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    for (int i = 0; !done; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(i % 400));
      session.cancel();
    }
  });
  for (int i = 0; i < 500; ++i) {
    if (i % 3 == 0) session.clear_cache();
    try {
      const rexit::Scores scores = session.score(request());
      for (std::size_t k = 0; k < slate.size(); ++k) EXPECT_NEAR(scores.scores[k].log_odds, expected[3 * k + 2], 1e-3);
    } catch (const rexit::Error& error) {
      EXPECT_EQ(error.status(), REXIT_CANCELLED) << error.what();
    }
  }
  done = true;
  other.join();
  session.clear_cache();
  answers_as_ever();
}

}  // namespace

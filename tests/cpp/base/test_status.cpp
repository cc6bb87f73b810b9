// Exceptions become a status and a line of text.
#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "base/status.hpp"

using namespace rexit::core;

namespace {

template <class Throw>
rexit_status report(Throw raise) {
  try {
    raise();
  } catch (...) {
    return report_current_exception();
  }
  return REXIT_OK;
}

TEST(Status, ExceptionsAreMapped) {
  EXPECT_EQ(report([] { fail(REXIT_TOO_LONG, "at ", 7); }), REXIT_TOO_LONG);
  EXPECT_STREQ(last_error(), "at 7");
  EXPECT_EQ(report([] { throw std::bad_alloc(); }), REXIT_OUT_OF_MEMORY);
  EXPECT_EQ(report([] { throw std::runtime_error("odd"); }), REXIT_INTERNAL);
  EXPECT_EQ(report([] { throw 1; }), REXIT_INTERNAL);
}

TEST(Status, TextIsOneLineOfUtf8) {
  report([] { fail(REXIT_CORRUPT, "a\nb\tc \xff \xc3\xbc \xe2\x82 end"); });
  EXPECT_STREQ(last_error(), "a b c ? \xc3\xbc ?? end");
  report([] { fail(REXIT_CORRUPT, std::string(1022, 'x'), "\xc3\xbc"); });
  EXPECT_EQ(std::string(last_error()), std::string(1022, 'x'));
}

// Lines quote a bundle's files, which must not forge another line or control a terminal.
TEST(Status, ALogLineIsOneLineOfUtf8) {
  std::string logged;
  set_log([](void* line, rexit_log_level, const char* text) { *static_cast<std::string*>(line) = text; }, &logged,
          REXIT_LOG_INFO);
  log(REXIT_LOG_INFO, "version 1\n[error] forged \x1b[2J \xff " + std::string(2000, 'x'));
  set_log(nullptr, nullptr, REXIT_LOG_ERROR);
  EXPECT_EQ(logged, "version 1 [error] forged  [2J ? " + std::string(2000, 'x'));
}

void count_once(void* lines, rexit_log_level, const char*) {
  ++*static_cast<int*>(lines);
  set_log(nullptr, nullptr, REXIT_LOG_ERROR);
}

TEST(Status, ASinkMayReplaceItself) {
  int lines = 0;
  set_log(count_once, &lines, REXIT_LOG_INFO);
  log(REXIT_LOG_INFO, "one");
  log(REXIT_LOG_INFO, "two");
  EXPECT_EQ(lines, 1);
}

void count(void* lines, rexit_log_level, const char*) { ++*static_cast<std::atomic<int>*>(lines); }

TEST(Status, EachLineReachesOneSinkWhileSinksChange) {
  std::atomic<int> first{0}, second{0};
  set_log(count, &first, REXIT_LOG_INFO);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([] {
      for (int i = 0; i < 1000; ++i) log(REXIT_LOG_INFO, "line");
    });
  for (int i = 0; i < 1000; ++i) set_log(count, i % 2 == 0 ? &second : &first, REXIT_LOG_INFO);
  for (std::thread& thread : threads) thread.join();
  set_log(nullptr, nullptr, REXIT_LOG_ERROR);
  EXPECT_EQ(first + second, 3000);
}

}  // namespace

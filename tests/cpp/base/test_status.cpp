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

// At every limit of UTF-8: Python must be able to decode it, and no terminal may obey it.
TEST(Status, TextIsStrictUtf8WithoutControls) {
  const struct {
    const char *text, *expected;
  } rows[] = {
      {"\xc2\x85|\xc2\x9b|\xc2\x80|\xc2\x9f|\xc2\xa0", " | | | |\xc2\xa0"},  // C1, and the first after it
      {"\xed\xa0\x80|\xed\xbf\xbf|\xed\x9f\xbf", "???|???|\xed\x9f\xbf"},    // surrogates, and the last before them
      {"\xe0\x80\x80|\xe0\x9f\xbf|\xe0\xa0\x80", "???|???|\xe0\xa0\x80"},    // overlong
      {"\xf0\x80\x80\x80|\xf0\x8f\xbf\xbf|\xf0\x90\x80\x80", "????|????|\xf0\x90\x80\x80"},  // overlong
      {"\xf4\x90\x80\x80|\xf4\x8f\xbf\xbf|\xf5\x80", "????|\xf4\x8f\xbf\xbf|??"},            // beyond U+10FFFF
      {"\xc0\x80|\xc1\xbf|\xe2\x82|\x80", "??|??|??|?"},
      {"\x01|\x1f|\x7f|~", " | | |~"},
  };
  for (const auto& [text, expected] : rows) {
    report([text = text] { fail(REXIT_CORRUPT, text); });
    EXPECT_STREQ(last_error(), expected);
  }
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

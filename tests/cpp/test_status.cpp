// How exceptions become a status and one line of text.
#include <gtest/gtest.h>

#include <new>
#include <string>

#include "status.hpp"

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

}  // namespace

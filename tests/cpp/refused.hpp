// How calls fail, in the library and in rexit.hpp.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "rexit/rexit.h"

namespace rexit {
class Error;
}

// Expects a call to throw an Error with this status and this text in its line.
template <class Error = rexit::Error, class Call>
void refused(Call call, rexit_status status, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "not refused: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

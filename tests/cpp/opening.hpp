// How opening a bundle ends.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "rexit/rexit.hpp"

inline rexit_status status_of(const std::string& bundle, const rexit::BundleOptions& options, std::string& message) {
  try {
    const rexit::Bundle opened(bundle, options);
  } catch (const rexit::Error& error) {
    message = error.what();
    return error.status();
  }
  return REXIT_OK;
}

template <class Call>
void refused(Call call, rexit_status status, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "not refused: " << text;
  } catch (const rexit::Error& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

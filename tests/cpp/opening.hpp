// How opening a bundle ends.
#pragma once

#include <string>

#include "refused.hpp"
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

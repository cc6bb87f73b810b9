// Where write_bundles put the bundles.
#pragma once

#include <cstdlib>
#include <string>

inline std::string bundles() {
  const char* folder = std::getenv("REXIT_TEST_BUNDLES");
  return folder != nullptr ? folder : "bundles";
}

// Those of tests/damage/engines.py.
inline std::string tensorrt_bundles() {
  const char* folder = std::getenv("REXIT_TEST_TENSORRT_BUNDLES");
  return folder != nullptr ? folder : "tensorrt-bundles";
}

inline std::string sound_bundle() { return bundles() + "/sound/bundle"; }

// Whether to try everything (`make test-all`), or enough to find a defect quickly.
inline bool slow() { return std::getenv("REXIT_TEST_SLOW") != nullptr; }

// The conditions a policy was calibrated under, and those a bundle runs under. A policy from elsewhere makes the same decisions
// but may save less time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rexit::core {

// An empty string or 0: unknown, or irrelevant on that device.
struct Conditions {
  std::string device;
  std::int32_t threads = 0;
  std::string architecture;        // as in `uname -m`
  std::string onnxruntime, rexit;  // versions
  std::size_t slate = 0;           // largest slate in calibration; compared with requests, not at open
};

// "device cuda, here cpu; threads 4, here 2"; empty if no known condition differs.
std::string differences(const Conditions& recorded, const Conditions& here);

}  // namespace rexit::core

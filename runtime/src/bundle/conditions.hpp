// What a policy was made on and what a bundle runs on: a policy made elsewhere decides the same, but may save less.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rexit::core {

// Empty, and 0 threads: unknown, or of no importance there.
struct Conditions {
  std::string device;
  std::int32_t threads = 0;
  std::string architecture, onnxruntime, rexit;  // as `uname -m` has it; versions
  std::size_t slate = 0;  // candidates that slates were cut to; of the requests, so not compared on opening
};

// "device cuda, here cpu; threads 4, here 2"; empty if nothing known differs.
std::string differences(const Conditions& made_on, const Conditions& here);

}  // namespace rexit::core

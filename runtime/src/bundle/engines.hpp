// The TensorRT engines of a variant: variants/NAME/engines/KEY/, written by `rexit compile`. Only engines.cpp reads engine.json.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace rexit::core {

// What an engine is bound to, as in engine.json: "8.7" and "10.3.0".
struct Accelerator {
  std::string compute_capability, tensorrt_version;

  std::string key() const;  // "sm87-trt10.3.0"
};

// The smallest and the largest size that an engine accepts in one dimension.
struct Range {
  std::size_t min, max;

  bool holds(std::size_t size) const noexcept { return size >= min && size <= max; }
};

// A TensorRT optimization profile: the ranges of T, P and N that it was built for.
struct OptimizationProfile {
  Range tokens, prefix, rows;
};

// One segment's engine.
struct Plan {
  std::string path, context;                  // full paths; empty: no context
  std::vector<OptimizationProfile> profiles;  // at least one; a pass uses the first whose `prefix` holds its P
};

// One per segment, for this GPU and this version of TensorRT: present, of the recorded size, and built from the variant's current
// graphs. Throws REXIT_NOT_FOUND if there is none (the message lists those there are), REXIT_MISMATCH for a stale or misplaced
// one, REXIT_CORRUPT for one that violates the format.
std::vector<Plan> find_engines(const Bundle& bundle, const Accelerator& here);

// Full paths of the folders with engines of the variant, for any GPU.
std::vector<std::string> engine_folders(const Bundle& bundle);

// "rexit compile BUNDLE --variant NAME"
std::string compile_command(const Bundle& bundle);

}  // namespace rexit::core

// A variant's TensorRT engines: variants/NAME/engines/KEY/, written by `rexit compile`. Only engines.cpp reads engine.json.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace rexit::core {

// An engine runs only on this compute capability and TensorRT version, as in engine.json: "8.7" and "10.3.0".
struct Accelerator {
  std::string compute_capability, tensorrt_version;

  std::string key() const;  // "sm87-trt10.3.0"
};

// The smallest and the largest size that an engine accepts in a dimension.
struct Range {
  std::size_t min, max;

  bool contains(std::size_t size) const noexcept { return size >= min && size <= max; }
};

// A TensorRT optimization profile: its ranges of T, P' and N. P' counts rows of the past, the prefix and its padding: at least 1,
// since a compiler may raise a minimum of 0.
struct OptimizationProfile {
  Range tokens, prefix, rows;
};

// A segment's engine.
struct Plan {
  std::string file;                           // path in the bundle
  std::string path;                           // `file` in messages
  std::vector<OptimizationProfile> profiles;  // at least one; a pass uses the first whose `prefix` contains its P'
};

// The engines for this GPU and this version of TensorRT, by segment. Their files have the recorded sizes, and they were built
// from the variant's current graphs. Throws REXIT_NOT_FOUND if there is none, with a list of the existing keys; REXIT_MISMATCH
// for a stale or misplaced engine; REXIT_UNSUPPORTED for graphs
// without past_padding; REXIT_CORRUPT for an engine.json that violates the format.
std::vector<Plan> find_engines(const Bundle& bundle, const Accelerator& here);

// Paths in the bundle of the variant's engine folders, for any GPU.
std::vector<std::string> engine_folders(const Bundle& bundle);

// "rexit compile BUNDLE --variant NAME"
std::string compile_command(const Bundle& bundle);

}  // namespace rexit::core

// The TensorRT engines of a variant: variants/NAME/engines/KEY/, written by `rexit compile`. Only engines.cpp reads engine.json.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace rexit::core {

// What an engine is bound to. As in engine.json: "8.7" and "10.3.0".
struct Accelerator {
  std::string compute_capability, tensorrt_version;

  std::string key() const;  // "sm87-trt10.3.0"
};

// The least and the most that an engine takes of something.
struct Range {
  std::size_t least, most;

  bool holds(std::size_t size) const noexcept { return size >= least && size <= most; }
};

// An optimization profile: the T, P and N of the passes that it is for.
struct EngineProfile {
  Range tokens, prefix, rows;
};

struct Plan {
  std::string path, context;            // full paths; no context: empty
  std::vector<EngineProfile> profiles;  // at least one; a pass takes the first whose `prefix` holds its P
};

// One per segment, for this GPU and this TensorRT: present, whole in size, and built from the graphs the variant has now.
// Throws REXIT_NOT_FOUND when there is none (the message says which there are), REXIT_MISMATCH for a stale or misplaced one,
// REXIT_CORRUPT for what the format does not allow.
std::vector<Plan> find_engines(const Bundle& bundle, const Accelerator& here);

// Full paths of the folders that hold engines of the variant, for whatever GPU.
std::vector<std::string> engine_folders(const Bundle& bundle);

// "rexit compile BUNDLE --variant NAME"
std::string compile_command(const Bundle& bundle);

}  // namespace rexit::core

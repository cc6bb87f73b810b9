// The commands (a file each) and their options.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rexit/rexit.hpp"

namespace rexit::program {

// Options of every command.
struct Common {
  std::string bundle;
  BundleOptions options;
  bool json = false;
};

struct ScoreOptions : Common {
  std::string user, items, recent;
  std::vector<std::string> inputs;  // NAME=VALUE
  std::optional<std::int64_t> as_of;
  std::optional<double> deadline_ms;
  std::optional<std::uint32_t> force_exit;
  std::optional<std::size_t> top_k;
};

struct PipeOptions : Common {
  std::size_t sessions = 1, cache_mib = 32;
};

// All return the exit code, or throw Failure or rexit::Error.
int score(const ScoreOptions& options);
int verify(const Common& options);
int pipe(const PipeOptions& options);

}  // namespace rexit::program

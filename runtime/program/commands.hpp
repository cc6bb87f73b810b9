// The commands, one file each; their options, as the command line fills them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "rexit/rexit.hpp"

namespace rexit::program {

// What every command has. `library`: ONNX Runtime's.
struct Common {
  std::string bundle;
  BundleOptions options;
  bool json = false;
};

struct ScoreOptions : Common {
  std::string user, items, recent;
  std::optional<std::int64_t> as_of;
  std::optional<double> deadline_ms;
  std::optional<std::uint32_t> force_exit;
  std::size_t top_k = 0;
};

struct BenchOptions : Common {
  std::string users;  // empty: drawn from the catalog
  std::size_t slate = 20, requests = 50;
};

struct ServeOptions : Common {
  std::size_t sessions = 1, cache_bytes = 0;
};

// Each returns the exit code, or throws Failure or rexit::Error.
int score(const ScoreOptions& options);
int verify(const Common& options);
int inspect(const Common& options);
int bench(const BenchOptions& options);
int serve(const ServeOptions& options);

// Throws Failure unless it is more than 0.
std::int64_t deadline_us(double deadline_ms);

}  // namespace rexit::program

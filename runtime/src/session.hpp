// One caller's state: buffers, the cached prefix, and the order of things in a request.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backend.hpp"
#include "bundle.hpp"
#include "prefix_cache.hpp"
#include "prompt.hpp"
#include "retrieval.hpp"
#include "rexit/rexit.h"
#include "slate.hpp"

namespace rexit::core {

// An opened bundle with its segments loaded; shared by its sessions.
struct Engine {
  Bundle bundle;
  std::unique_ptr<const Backend> backend;

  Engine(const char* path, const char* variant, const Execution& execution)
      : bundle(path, variant), backend(make_backend(bundle, execution)) {}
};

struct Request {
  Query query;
  std::optional<Policy> policy;  // none: the bundle's
  std::optional<std::size_t> force_exit;
  std::int64_t deadline_us = 0;
  std::size_t top_k = 0;
};

struct Score {
  std::size_t item;  // index into the query's items
  Answer answer;
};

class Session {
 public:
  explicit Session(std::shared_ptr<const Engine> engine);

  const Engine& engine() const noexcept { return *engine_; }

  // `start`: when the call began, from which the deadline and the times count.
  std::vector<Score> score(const Request& request, Clock::time_point start, rexit_stats& stats);
  void trace(const Request& request, float* log_odds, Clock::time_point start, rexit_stats& stats);
  const Prompt& prompt(const Request& request);
  void warm_up();
  void clear_cache() noexcept { prefix_.clear(); }
  std::size_t memory() const noexcept;

 private:
  const std::vector<Answer>& run(const StopRule& rule, const Deadline& deadline, rexit_stats& stats);

  std::shared_ptr<const Engine> engine_;
  Retrieval retrieval_;
  Prompt prompt_;
  PrefixCache prefix_;
  Slate slate_;
};

}  // namespace rexit::core

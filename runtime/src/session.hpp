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
  Backends backends;

  // `make_backends`: gives Backends for the opened bundle.
  template <class MakeBackends>
  Engine(const char* path, const char* variant, MakeBackends&& make_backends)
      : bundle(path, variant), backends(make_backends(bundle)) {}
};

struct Request {
  Query query;
  bool has_policy = false;  // else the bundle's
  Policy policy;
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
  // `cache_bytes`: for prefixes, as in rexit_session_options; 0: the default.
  Session(std::shared_ptr<const Engine> engine, std::size_t cache_bytes);

  const Engine& engine() const noexcept { return *engine_; }

  // `start`: when the call began, from which the deadline and the times count. The scores are valid until the next call.
  const std::vector<Score>& score(const Request& request, Clock::time_point start, rexit_stats& stats);
  // [items, exits], valid until the next call.
  const std::vector<float>& trace(const Request& request, Clock::time_point start, rexit_stats& stats);
  const Prompt& prompt(const Request& request);
  void warm_up();
  void clear_cache() noexcept { prefix_.clear(); }
  std::size_t memory() const noexcept;

 private:
  const std::vector<Answer>& run(const StopRule& rule, const Deadline& deadline, rexit_stats& stats);

  std::shared_ptr<const Engine> engine_;
  std::shared_ptr<const Backend> backend_;
  Retrieval retrieval_;
  Prompt prompt_;
  PrefixCache prefix_;
  Slate slate_;
  std::vector<Score> scores_;
  std::vector<float> log_odds_;
};

}  // namespace rexit::core

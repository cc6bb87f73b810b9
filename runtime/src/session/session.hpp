// One caller's state: buffers, the cached prefix, and the order of things in a request.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "prompt/prompt.hpp"
#include "prompt/retrieval.hpp"
#include "rexit/rexit.h"
#include "session/prefix_cache.hpp"
#include "session/slate.hpp"
#include "session/supervised_backend.hpp"

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

// In bytes, as in rexit_memory.
struct Memory {
  std::size_t prefixes, buffers;
  BackendMemory backend;
};

// Calls belong to one thread at a time, cancel() to any.
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
  void clear_cache() noexcept { state_->prefix.clear(); }
  void trim();
  Memory memory() const;

  // Before score, trace and prompt: what was cancelled earlier does not concern them.
  void begin_call() noexcept { backend_.begin_call(); }
  void cancel() noexcept { backend_.cancel(); }
  // One per segment, of the last score, trace or warm-up.
  const std::vector<SegmentStats>& segments() const noexcept { return backend_.segments(); }

 private:
  // All that grows with requests.
  struct State {
    State(const Bundle& bundle, const Backend& backend, std::size_t cache_bytes);

    Retrieval retrieval;
    Prompt prompt;
    PrefixCache prefix;
    Slate slate;
    std::vector<Score> scores;
    std::vector<float> log_odds;
  };

  void assemble(const Request& request, const Deadline& deadline);
  const std::vector<Answer>& run(const StopRule& rule, const Deadline& deadline, rexit_stats& stats);

  std::shared_ptr<const Engine> engine_;
  SupervisedBackend backend_;
  std::size_t cache_bytes_;
  std::unique_ptr<State> state_;
};

// Bytes of prefixes and buffers that a session of `bundle` holds after warm_up().
std::size_t session_bytes(const Bundle& bundle);

}  // namespace rexit::core

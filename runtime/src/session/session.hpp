// A session: buffers, cached prefixes, and the steps that answer a request.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "prompt/prompt.hpp"
#include "prompt/retrieval.hpp"
#include "rexit/rexit.h"
#include "session/prefix.hpp"
#include "session/prefix_cache.hpp"
#include "session/slate.hpp"
#include "session/supervised_backend.hpp"

namespace rexit::core {

// An opened bundle with its loaded segments and its pinned start, shared by its sessions.
struct LoadedBundle {
  Bundle bundle;
  BackendFactory make_backend;
  std::shared_ptr<const PinnedStart> start;
  std::shared_ptr<const ZeroGraph> zero;  // null: exit zero has no graph

  // make_factory(bundle) returns the BackendFactory. `load_zero`: may be null if the bundle has no exit zero.
  template <class MakeFactory>
  LoadedBundle(const std::string& path, const char* variant, MakeFactory&& make_factory, const ZeroFactory& load_zero = nullptr)
      : bundle(path, variant),
        make_backend(make_factory(bundle)),
        start(make_start()),
        zero(bundle.has_zero() ? load_zero(bundle) : nullptr) {}

  // Opens the folder of `opened` again, with its loaded segments; exit zero's graph belongs to the catalog and is loaded. Throws
  // REXIT_MISMATCH if the segments have changed.
  explicit LoadedBundle(const LoadedBundle& opened, const ZeroFactory& load_zero = nullptr);
  LoadedBundle& operator=(const LoadedBundle&) = delete;

  // Logs a warning, once, if the policy was calibrated on shorter slates.
  void warn_of_long_slate(std::size_t items) const;

 private:
  std::shared_ptr<const PinnedStart> make_start() const;

  mutable std::atomic_flag warned_of_long_slate_ = ATOMIC_FLAG_INIT;
};

struct Request {
  std::string id, user;                 // as JSON; empty: the request has none
  bool by_tokens = false;               // or by texts
  bool floor = false;                   // whether candidates below the policy's floor are left out
  Query query;                          // unless it is by tokens
  TokenPrompt tokens;                   // if it is
  TextTokens texts;                     // a query and documents, from which `tokens` are made
  std::vector<std::uint8_t> truncated;  // [documents]: whether the pair with the query was cut; empty: no texts
  StageScores scores;                   // NaN where there is none
  bool has_policy = false;              // false: the bundle's policy applies
  Policy policy;
  std::optional<std::size_t> force_exit;
  std::int64_t deadline_us = 0;
  std::size_t top_k = 0;

  bool is_of_known_user() const noexcept { return !by_tokens && query.user; }
  std::size_t candidates() const noexcept { return by_tokens ? tokens.counts.size() : query.items.size(); }

  // As a new request for such prompts, but keeps its memory.
  void clear(const Program& program);
  std::size_t memory() const noexcept;  // in bytes
};

struct Score {
  std::size_t item;  // number of the candidate, from 0
  Answer answer;
};

// Bytes, as in rexit_memory.
struct Memory {
  std::size_t prefixes, buffers;
  std::size_t pinned;  // once for all sessions of the bundle
  std::size_t gpu;     // of this session's passes
};

// Only one thread at a time may use it. The exceptions are cancel(), segments() and memory(): any thread may call them, and they
// do not wait for a running call.
class Session {
 public:
  // `cache_bytes` and `slate_bytes`: as in rexit_session_options; 0: the default.
  Session(std::shared_ptr<const LoadedBundle> loaded, std::size_t cache_bytes, std::size_t slate_bytes = 0);

  const LoadedBundle& loaded() const noexcept { return *loaded_; }

  // `start`: the beginning of the call, from which the deadline and all times count. The scores are valid until the next call.
  // `reached`: receives the log-odds of the exits that each candidate reached, [candidates, exits], NaN at the others; null:
  // none.
  const std::vector<Score>& score(const Request& request, Clock::time_point start, rexit_stats& stats,
                                  std::vector<float>* reached = nullptr);
  // [items, exits], valid until the next call.
  const std::vector<float>& trace(const Request& request, Clock::time_point start, rexit_stats& stats);
  const Prompt& prompt(const Request& request);
  // Candidates of the last score(), trace() or prompt(), and their rows; nullopt: they are token ids.
  std::size_t candidates() const noexcept { return state_->candidates; }
  std::optional<Row> item(std::size_t candidate) const noexcept;
  void warm_up();
  void clear_cache() noexcept;
  void trim();
  // `prefixes` and `buffers` as at the end of the last call.
  Memory memory() const;

  // Call at the beginning and at the end of every call.
  void discard_cancellation() noexcept { backend_.discard_cancellation(); }
  const std::atomic<bool>& cancelled() const noexcept { return backend_.cancelled(); }
  void cancel() noexcept { backend_.cancel(); }
  // [segments], of the last score, trace or warm-up, or since reset_segments().
  std::vector<SegmentStats> segments() const { return backend_.segments(); }
  void reset_segments() noexcept { backend_.reset_segments(); }

 private:
  // Everything whose size depends on the requests.
  struct State {
    State(const LoadedBundle& loaded, const Backend& backend, std::size_t cache_bytes, std::size_t slate_bytes);

    std::unique_ptr<Retrieval> retrieval;  // null: the bundle has no catalog
    Prompt prompt;
    PrefixCache prefix;
    Slate slate;
    std::size_t candidates = 0;  // of the last request
    bool by_tokens = false;
    std::vector<Score> scores;
    std::vector<float> log_odds;
    std::vector<float> numbers, zero;  // exit zero's input and log-odds; empty: the bundle has none
  };

  // Updates memory() at the end of a call, also if the call throws.
  class MemoryUpdate {
   public:
    explicit MemoryUpdate(Session& session) : session_(session) {}
    ~MemoryUpdate() { session_.update_memory(); }
    MemoryUpdate(const MemoryUpdate&) = delete;
    MemoryUpdate& operator=(const MemoryUpdate&) = delete;

   private:
    Session& session_;
  };

  void update_memory() noexcept;
  void begin_query(const Request& request, const Deadline& deadline);
  void begin(const Request& request, const Deadline& deadline, rexit_stats& stats);
  void begin_slate(std::size_t candidates, const std::vector<float>& zero, const StopRule& rule);
  bool assemble_entering(const Request& request, const Deadline& deadline);
  const std::vector<Answer>& run(const Prompt& prompt, const StopRule& rule, const Deadline& deadline, rexit_stats& stats);

  std::shared_ptr<const LoadedBundle> loaded_;
  SupervisedBackend backend_;
  std::size_t cache_bytes_, slate_bytes_;
  std::unique_ptr<State> state_;
  std::atomic<std::size_t> prefixes_{0}, buffers_{0};  // bytes
};

// Bytes that a session's prefixes and buffers take after warm_up().
std::size_t session_bytes(const Bundle& bundle);

}  // namespace rexit::core

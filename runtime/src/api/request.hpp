// A request in JSON, and its answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

constexpr std::size_t max_request_bytes = std::size_t{64} << 20;

// Candidates of a request, whatever names them.
constexpr std::size_t max_request_candidates = REXIT_MAX_CANDIDATES;

// What ends the reading of a request before its end.
struct ReadLimits {
  Clock::time_point start = Clock::now();        // of the call
  std::int64_t deadline_us = 0, waited_us = 0;   // as in rexit_call_options
  const std::atomic<bool>* cancelled = nullptr;  // must outlive the call
};

// Reads a request for `bundle` into `out`, and reuses its memory. docs/format/request.md lists the fields. A message begins with
// the field's path. Throws REXIT_INVALID_ARGUMENT or REXIT_UNKNOWN_ITEM; REXIT_MISMATCH if the tables of texts have changed;
// REXIT_CANCELLED, or REXIT_DEADLINE once the deadline has passed: the request's own from where it names it.
void read_request(std::string_view json, const Bundle& bundle, Request& out, const ReadLimits& limits = {});

// Applies what the caller decides. Throws REXIT_INVALID_ARGUMENT; REXIT_DEADLINE if the deadline passed before the call.
void apply_options(const rexit_call_options& options, const Bundle& bundle, Request& request);

// Writes a line of JSON without a newline to `out`, and reuses its memory. `scores`: what the session's last score() returned.
void write_answer(const Request& request, const Session& session, const std::vector<Score>& scores, const rexit_stats& stats,
                  std::int64_t waited_us, std::string& out);

}  // namespace rexit::core

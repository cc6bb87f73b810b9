// A request in JSON, and its answer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

constexpr std::size_t max_request_bytes = std::size_t{64} << 20;

// Reads a request for `bundle` into `out`, and reuses its memory. docs/format/request.md lists the fields. A message begins with
// the field's path. Throws REXIT_INVALID_ARGUMENT or REXIT_UNKNOWN_ITEM.
void read_request(std::string_view json, const Bundle& bundle, Request& out);

// Applies what the caller decides. Throws REXIT_INVALID_ARGUMENT; REXIT_DEADLINE if the deadline passed before the call.
void apply_options(const rexit_call_options& options, const Bundle& bundle, Request& request);

// Writes a line of JSON without a newline to `out`, and reuses its memory. `scores`: what the session's last score() returned.
void write_answer(const Request& request, const Session& session, const std::vector<Score>& scores, const rexit_stats& stats,
                  std::int64_t waited_us, std::string& out);

}  // namespace rexit::core

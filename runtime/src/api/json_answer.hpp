// The answer to a request in JSON, as docs/format/request.md has it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/json_request.hpp"
#include "session/session.hpp"

namespace rexit::core {

// Writes a line of JSON without a newline to `out`, and reuses its memory. `scores`: what the session's last score() returned.
void write_answer(const JsonRequest& request, const Session& session, const std::vector<Score>& scores, const rexit_stats& stats,
                  std::int64_t waited_us, std::string& out);

}  // namespace rexit::core

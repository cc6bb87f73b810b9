// Checks a rexit_request, resolving its ids to rows of the catalog, or a rexit_token_request.
#pragma once

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

// Fills `out` and reuses its memory. Throws REXIT_INVALID_ARGUMENT or REXIT_UNKNOWN_ITEM.
void read_request(const rexit_request* request, const Bundle& bundle, Request& out);

// The same for token ids, which `out` then points to. The session checks the ids themselves. Throws REXIT_INVALID_ARGUMENT.
void read_request(const rexit_token_request* request, const Bundle& bundle, Request& out);

// What the caller has for the answers.
struct Room {
  std::size_t score_size;  // of an entry of scores_out
  float* probabilities;    // [scores, objectives]; null: not requested
};

// `scores`: how many the answer will have. Throws REXIT_INVALID_ARGUMENT for a wrong size, and for an array that is too short.
Room read_room(const rexit_request* request, std::size_t scores, std::size_t objectives);
Room read_room(const rexit_token_request* request, std::size_t scores, std::size_t objectives);

}  // namespace rexit::core

// Checks a rexit_request and resolves its ids to rows of the catalog.
#pragma once

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

// sizeof(rexit_input) in the first version of rexit.h.
constexpr std::size_t first_input_size = 40;

// Fills `out` and reuses its memory. `source`: as read_struct() returns it. Token ids stay in the caller's memory, and the
// session checks them. A message begins with the field's path in a JSON request. Throws REXIT_INVALID_ARGUMENT or
// REXIT_UNKNOWN_ITEM.
void read_request(const rexit_request& source, const Bundle& bundle, Request& out);

// Bytes of an entry of the caller's scores_out. Throws REXIT_INVALID_ARGUMENT for a wrong size.
std::size_t read_score_size(const rexit_request& source);

}  // namespace rexit::core

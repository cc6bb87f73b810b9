// Checks a rexit_request and resolves its ids to rows of the catalog.
#pragma once

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

// Fills `out` and reuses its memory. Throws REXIT_INVALID_ARGUMENT or REXIT_UNKNOWN_ITEM.
void read_request(const rexit_request* request, const Bundle& bundle, Request& out);

// The size of an entry of the caller's scores. Throws REXIT_INVALID_ARGUMENT.
std::size_t score_size(const rexit_request* request);

}  // namespace rexit::core

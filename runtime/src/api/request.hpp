// Checks a rexit_request and resolves its ids to rows of the catalog.
#pragma once

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

// Fills `out` and reuses its memory. Throws REXIT_INVALID_ARGUMENT and REXIT_UNKNOWN_ITEM.
void read_request(const rexit_request* request, const Bundle& bundle, Request& out);

}  // namespace rexit::core

// A rexit_request, checked and resolved to rows.
#pragma once

#include "rexit/rexit.h"
#include "session/session.hpp"

namespace rexit::core {

// Fills `out`, whose memory is reused. Throws REXIT_INVALID_ARGUMENT and REXIT_UNKNOWN_ITEM.
void read_request(const rexit_request* request, const Bundle& bundle, Request& out);

}  // namespace rexit::core

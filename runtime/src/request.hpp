// A rexit_request, checked and resolved to rows.
#pragma once

#include "rexit/rexit.h"
#include "session.hpp"

namespace rexit::core {

// Throws REXIT_INVALID_ARGUMENT and REXIT_UNKNOWN_ITEM.
Request read_request(const rexit_request* request, const Bundle& bundle);

}  // namespace rexit::core

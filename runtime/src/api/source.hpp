// Turns a rexit_source into the source of a bundle.
#pragma once

#include <memory>

#include "files/source.hpp"
#include "rexit/rexit.h"

namespace rexit::core {

// `owned`: call the struct's `release` once the source is gone, also if this throws. Throws REXIT_INVALID_ARGUMENT unless exactly
// one kind of source is set.
std::shared_ptr<const Source> read_source(const rexit_source* source, bool owned);

}  // namespace rexit::core

// Parity: whether the loaded segments compute what the exporter recorded, by the variant's golden samples.
#pragma once

#include <memory>

#include "session/session.hpp"

namespace rexit::core {

// Traces every golden slate in a session of its own, without cached prefixes. Throws REXIT_MISMATCH if the log-odds of an exit
// are further from the recorded ones than the variant's tolerance; what Bundle throws for a missing or damaged file; and what
// scoring throws.
void check_parity(const std::shared_ptr<const LoadedBundle>& loaded);

}  // namespace rexit::core

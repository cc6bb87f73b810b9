// A slate without exit zero, in one call.
#pragma once

#include <vector>

#include "session/slate/slate.hpp"

inline const std::vector<rexit::core::Answer>& run_slate(rexit::core::Slate& slate, const rexit::core::Prompt& prompt,
                                                         rexit::core::PrefixCache& prefix, const rexit::core::StopRule& rule,
                                                         const rexit::core::Deadline& deadline, rexit::core::SlateStats& stats) {
  slate.begin(prompt.candidates(), nullptr, rule);
  return slate.run(prompt, prefix, rule, deadline, stats);
}

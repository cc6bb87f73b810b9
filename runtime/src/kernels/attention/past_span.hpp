// Which part of the past the tokens of a pass see.
#pragma once

#include <cstddef>

namespace rexit::core {

// The tokens from the previous span's end to `tokens_end` see rows [past_begin, past_end) of the past, and no others.
struct PastSpan {
  std::size_t tokens_end, past_begin, past_end;
};

}  // namespace rexit::core

// Request texts: what only a request knows, such as a search query, as token ids by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rexit::core {

// A text that ops `request` of a prompt program place.
struct RequestText {
  static constexpr std::size_t max_limit = 4096;

  std::string name;
  std::size_t limit;  // most tokens
  bool required;      // a request without it is refused
};

// Tokens in the caller's memory.
struct TextTokens {
  const std::int32_t* tokens = nullptr;
  std::size_t count = 0;
};

}  // namespace rexit::core

// What `pipe` must know of a line before the library reads it.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace rexit::program {

struct Peek {
  nlohmann::ordered_json id;     // null: none
  std::size_t prefix_owner = 0;  // equal for requests that share a prefix: a hash of the user, or of the prefix's tokens
};

// Never fails: of a line that is no request, returns what comes before the first fault.
Peek peek(const std::string& line);

}  // namespace rexit::program

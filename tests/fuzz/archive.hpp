// A bundle's files in one piece of memory: what a fuzzer mutates and a finding holds. Per file: 2 bytes for the length of its
// name, the name, 4 bytes for the length of its contents, the contents; lengths are little-endian. archive.py reads and writes
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace rexit::fuzz {

using Archive = std::map<std::string, std::string>;  // from a relative path to contents

// Nothing where the bytes are no archive, or a name is not one that may be written below a folder.
std::optional<Archive> unpack(const std::uint8_t* data, std::size_t size);
std::string pack(const Archive& archive);

// Makes sizes and digests fit, from the leaves up, in whatever is still a manifest: so that damage is met where it is used.
void seal(Archive& archive);

}  // namespace rexit::fuzz

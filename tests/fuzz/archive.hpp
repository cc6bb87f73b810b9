// A bundle's files in a single buffer, which a fuzzer mutates and a finding holds. Per file: the length of its name in 2 bytes,
// the name, the length of its contents in 4 bytes, the contents. Lengths are little-endian. archive.py reads and writes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace rexit::fuzz {

using Archive = std::map<std::string, std::string>;  // from a relative path to contents

// Nullopt if the bytes are no archive, or a name must not be written below a folder.
std::optional<Archive> unpack(const std::uint8_t* data, std::size_t size);
std::string pack(const Archive& archive);

// Updates sizes and digests in all files that are still manifests, from the leaves up, so that checks of digests do not hide
// damage.
void seal(Archive& archive);

}  // namespace rexit::fuzz

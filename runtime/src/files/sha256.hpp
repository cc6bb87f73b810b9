// SHA-256 (FIPS 180-4). Our own code: OpenSSL or nettle would be another dependency on a device, for a function that never
// changes and has published test vectors.
#pragma once

#include <cstddef>
#include <string>

namespace rexit::core {

// The digest of `size` bytes, as 64 lower-case hex digits.
std::string sha256(const unsigned char* data, std::size_t size);

}  // namespace rexit::core

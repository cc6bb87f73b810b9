// Saved prefixes: a session's cached prefixes as a safetensors file, described in docs/format.md.
#pragma once

#include "bundle/bundle.hpp"
#include "session/prefix/prefix_cache.hpp"

namespace rexit::core {

// Leaves out prefixes with numbers that are not finite, which load_prefixes would refuse. Throws REXIT_WRITE_FAILED and then
// leaves no file behind.
void save_prefixes(const char* path, const Bundle& bundle, const PrefixCache& cache);

// Replaces the cache's prefixes, see PrefixCache::load. The file need not be trusted: everything in it is checked before an
// allocation depends on it. If it throws, the cache is unchanged: REXIT_NOT_FOUND; REXIT_CORRUPT; REXIT_MISMATCH for prefixes of
// another bundle or variant; REXIT_UNSUPPORTED for another version of the format.
void load_prefixes(const char* path, const Bundle& bundle, PrefixCache& cache);

}  // namespace rexit::core

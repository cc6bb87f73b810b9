// The saved form of a session's cached prefixes: a safetensors file, which docs/format.md describes.
#pragma once

#include "bundle/bundle.hpp"
#include "session/prefix_cache.hpp"

namespace rexit::core {

// All but prefixes with numbers that are not finite, which load_prefixes would refuse. Throws REXIT_WRITE_FAILED, and leaves
// nothing behind then.
void save_prefixes(const char* path, const Bundle& bundle, const PrefixCache& cache);

// Replaces the cache's prefixes, see PrefixCache::load. A file need not come from a trusted source: everything in it is checked
// before anything of its size is allocated. If it throws, the cache is as it was: REXIT_NOT_FOUND, REXIT_CORRUPT, REXIT_MISMATCH
// for the prefixes of another bundle or variant, REXIT_UNSUPPORTED for another version of the format.
void load_prefixes(const char* path, const Bundle& bundle, PrefixCache& cache);

}  // namespace rexit::core

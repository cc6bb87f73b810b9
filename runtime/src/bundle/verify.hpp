// Whether a bundle's files are still those that were written.
#pragma once

#include <string>

namespace rexit::core {

// Checks everything that opening checks, every row of the catalog, and every digest recorded in manifest.json, variant.json and
// engine.json. `variant` null: all variants. Throws REXIT_CORRUPT for the first file that was modified, and what Bundle throws.
void verify_bundle(const std::string& path, const char* variant);

}  // namespace rexit::core

// Verification: a bundle's files are those that the exporter wrote.
#pragma once

#include <string>

namespace rexit::core {

// Checks all that opening checks, every row of the catalog, and every digest in manifest.json, variant.json and engine.json.
// `variant` null: all variants. Throws REXIT_CORRUPT for the first modified file, and what Bundle throws.
void verify_bundle(const std::string& path, const char* variant);

}  // namespace rexit::core

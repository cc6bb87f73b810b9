// Verification: a bundle's files are those that the exporter wrote.
#pragma once

#include <memory>

#include "files/sources/source.hpp"

namespace rexit::core {

// Checks all that opening checks, every row of the catalog, and every digest in manifest.json, variant.json and engine.json.
// `variant` null: all variants. Throws REXIT_CORRUPT for the first modified file, and what Bundle throws.
void verify_bundle(const std::shared_ptr<const Source>& source, const char* variant);

}  // namespace rexit::core

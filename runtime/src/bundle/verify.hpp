// Whether a bundle's files are those that were written.
#pragma once

#include <string>

namespace rexit::core {

// Everything that opening checks and every digest that manifest.json, variant.json and engine.json record. `variant` null: of all
// variants. Throws REXIT_CORRUPT for the first file that was edited, and what Bundle throws.
void verify_bundle(const std::string& path, const char* variant);

}  // namespace rexit::core

#include <cstring>

#include "commands.hpp"
#include "failure.hpp"
#include "output.hpp"

namespace rexit::program {

int inspect(const Common& options) {
  nlohmann::ordered_json documents = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows;
  const std::string& only = options.options.variant;
  const auto megabytes = [](std::size_t bytes) { return fixed(static_cast<double>(bytes) / 1e6, 2); };
  for (const rexit_variant_info& variant : variants(options.bundle)) {
    if (!only.empty() && only != variant.name) continue;
    const bool calibrated = variant.calibrated != 0;
    documents.push_back({{"name", variant.name},
                         {"target", variant.target},
                         {"precision", variant.precision},
                         {"calibrated", calibrated},
                         {"graph_bytes", variant.graph_bytes},
                         {"catalog_bytes", variant.catalog_bytes},
                         {"session_bytes", variant.session_bytes}});
    rows.push_back({variant.name, variant.target, variant.precision, calibrated ? "yes" : "no", megabytes(variant.graph_bytes),
                    megabytes(variant.catalog_bytes), megabytes(variant.session_bytes)});
  }
  if (documents.empty()) throw Failure(options.bundle + ": no variant '" + only + "'");
  if (options.json) {
    print_json({{"kind", "bundle"}, {"path", options.bundle}, {"variants", documents}});
  } else {
    print_table("bundle " + options.bundle,
                {"variant", "target", "precision", "calibrated", "graphs MB", "catalog MB", "session MB"}, rows);
  }
  return 0;
}

}  // namespace rexit::program

#include "bundle/verify.hpp"

#include <vector>

#include "bundle/bundle.hpp"
#include "bundle/engines.hpp"
#include "files/files.hpp"
#include "files/json.hpp"
#include "files/mapped_file.hpp"

namespace rexit::core {
namespace {

// Verifies the `files` listed in the JSON file `list` of a folder. `known`: features that it may require.
void verify_files(const std::string& folder, const char* list, std::initializer_list<std::string_view> known = {}) {
  const FileList files = read_file_sizes(read_json(folder + "/" + list, known).root().at("files"));
  check_files(folder, files, {});
  for (const auto& [name, entry] : files) check_digest(MappedFile(folder + "/" + name), entry);
}

}  // namespace

void verify_bundle(const std::string& path, const char* variant) {
  const std::vector<std::string> names = variant != nullptr ? std::vector<std::string>{variant} : variant_names(path);
  verify_files(path, "manifest.json", Bundle::known);
  for (const std::string& name : names) {
    const Bundle bundle(path, name.c_str());
    if (name == names.front() && bundle.has_catalog()) bundle.catalog().check();
    verify_files(bundle.variant().folder, "variant.json");
    for (const std::string& folder : engine_folders(bundle)) verify_files(folder, "engine.json");
  }
}

}  // namespace rexit::core

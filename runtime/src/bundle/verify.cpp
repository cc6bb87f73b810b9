// Verification: a bundle's files are those that the exporter wrote.
#include <string>
#include <vector>

#include "base/status.hpp"
#include "bundle/engines.hpp"
#include "files/file_list.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

// Verifies the `files` listed in the JSON file `list` of a folder, "" or a path that ends with `/`. `command`: what
// writes it.
void verify_files(const Folder& bundle, const std::string& folder, const char* list, const char* command) {
  const FileList files = read_file_sizes(read_json(bundle.open(folder + list), command).root().at("files"));
  check_files(bundle, folder, files, {});
  for (const auto& [name, entry] : files) check_digest(bundle.open(folder + name), entry);
}

// Verifies that the variant's policy is the one that calibration wrote. `folder`: the variant's, ends with `/`.
void verify_policy(const Folder& bundle, const std::string& folder) {
  const std::string report = folder + "report.json", policy = folder + "policy.json";
  if (!bundle.has(report)) return;  // not calibrated, or a policy of somebody's own
  const std::string recorded = read_json(bundle.open(report), "rexit calibrate").root().at("policy_sha256").string();
  if (!bundle.has(policy))
    fail(REXIT_CORRUPT, bundle.where(policy), ": missing, report.json has ", recorded.substr(0, 12),
         "… (run `rexit calibrate` again)");
  check_digest(bundle.open(policy), {0, recorded});
}

}  // namespace

void verify_bundle(const std::string& path, const char* variant) {
  const Folder whole(path);
  const std::vector<std::string> names = variant != nullptr ? std::vector<std::string>{variant} : variant_names(whole);
  verify_files(whole, "", "manifest.json", "rexit export");
  for (const std::string& name : names) {
    const Bundle bundle(path, name.c_str());
    if (name == names.front() && bundle.has_catalog()) bundle.catalog().check();
    verify_files(whole, bundle.variant().folder + "/", "variant.json", "rexit export");
    verify_policy(whole, bundle.variant().folder + "/");
    for (const std::string& folder : engine_folders(bundle)) verify_files(whole, folder + "/", "engine.json", "rexit compile");
  }
}

}  // namespace rexit::core

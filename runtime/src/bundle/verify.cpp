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
void verify_files(const Source& source, const std::string& folder, const char* list, const char* command) {
  const FileList files = read_file_sizes(read_json(source.open(folder + list), command).root().at("files"));
  check_files(source, folder, files, {});
  for (const auto& [name, entry] : files) check_digest(source.open(folder + name), entry);
}

// Verifies that the variant's policy is the one that calibration wrote. `folder`: the variant's, ends with `/`.
void verify_policy(const Source& source, const std::string& folder) {
  const std::string report = folder + "report.json", policy = folder + "policy.json";
  if (!source.has(report)) return;  // not calibrated, or a policy of somebody's own
  const std::string recorded = read_json(source.open(report), "rexit calibrate").root().at("policy_sha256").string();
  if (!source.has(policy))
    fail(REXIT_CORRUPT, source.where(policy), ": missing, report.json has ", recorded.substr(0, 12),
         "… (run `rexit calibrate` again)");
  check_digest(source.open(policy), {0, recorded});
}

}  // namespace

void verify_bundle(const std::shared_ptr<const Source>& source, const char* variant) {
  const std::vector<std::string> names = variant != nullptr ? std::vector<std::string>{variant} : variant_names(*source);
  verify_files(*source, "", "manifest.json", "rexit export");
  for (const std::string& name : names) {
    const Bundle bundle(source, name.c_str());
    if (name == names.front() && bundle.has_catalog()) bundle.catalog().check();
    verify_files(*source, bundle.variant().folder + "/", "variant.json", "rexit export");
    verify_policy(*source, bundle.variant().folder + "/");
    for (const std::string& folder : engine_folders(bundle)) verify_files(*source, folder + "/", "engine.json", "rexit compile");
  }
}

}  // namespace rexit::core

// The manifests of a bundle: JSON with the sizes and digests of other files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "files/sha256.hpp"
#include "tar.hpp"

namespace manifests {

using nlohmann::json;

inline bool ends_with(const std::string& text, const char* end) {
  const std::string tail(end);
  return text.size() >= tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

inline std::string digest(const std::string& bytes) {
  return rexit::core::sha256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

// Calls `change` with the JSON object in a file, if it holds one.
template <class Change>
void change(tar::Files& files, const std::string& name, const Change& change) {
  const auto file = files.find(name);
  if (file == files.end()) return;
  json value = json::parse(file->second, nullptr, false);
  if (!value.is_object()) return;
  change(value);
  file->second = value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// Updates the sizes and digests of a manifest's `files`, which are below `folder`.
inline void record_files(json& manifest, const tar::Files& files, const std::string& folder) {
  const auto listed = manifest.find("files");
  if (listed == manifest.end() || !listed->is_object()) return;
  for (auto& [name, entry] : listed->items()) {
    const auto file = files.find(folder + name);
    if (file == files.end() || !entry.is_object()) continue;
    if (entry.contains("bytes")) entry["bytes"] = file->second.size();
    if (entry.contains("sha256")) entry["sha256"] = digest(file->second);
  }
}

inline void record_digest(json& manifest, const char* key, const tar::Files& files, const std::string& name) {
  if (manifest.contains(key) && manifest[key].is_string() && files.count(name) != 0) manifest[key] = digest(files.at(name));
}

// Updates sizes and digests in all files that are still manifests, from the leaves up, so that checks of digests do not hide a
// change.
inline void record(tar::Files& files) {
  const std::string catalog = "catalog/catalog.json";
  change(files, catalog, [&](json& value) { record_files(value, files, "catalog/"); });
  std::vector<std::string> folders;
  for (const auto& [name, contents] : files)
    if (name.rfind("variants/", 0) == 0 && ends_with(name, "/variant.json")) folders.push_back(name.substr(0, name.size() - 12));
  for (const std::string& folder : folders) {
    change(files, folder + "variant.json", [&](json& variant) {
      record_files(variant, files, folder);
      record_digest(variant, "catalog_sha256", files, catalog);
    });
    change(files, folder + "policy.json",
           [&](json& policy) { record_digest(policy, "variant_sha256", files, folder + "variant.json"); });
  }
  change(files, "manifest.json", [&](json& manifest) { record_files(manifest, files, ""); });
}

}  // namespace manifests

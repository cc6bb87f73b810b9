#include "archive.hpp"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "files/sha256.hpp"

namespace rexit::fuzz {
namespace {

using nlohmann::json;

constexpr std::size_t most_files = 32, longest_name = 120;

// Lower-case letters, digits and `.-_`, in one to five components that do not begin with a dot.
bool writable(const std::string& name) {
  if (name.empty() || name.size() > longest_name) return false;
  int components = 1;
  bool begins = true;
  for (const char c : name) {
    const bool slash = c == '/';
    if (slash && (begins || ++components > 5)) return false;
    if (!slash && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_' && (begins || c != '.'))
      return false;
    begins = slash;
  }
  return !begins;
}

std::string digest(const std::string& bytes) {
  return core::sha256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

// The JSON object in a file; nullopt if it holds no object.
std::optional<json> object_in(const Archive& archive, const std::string& name) {
  const auto entry_at = archive.find(name);
  if (entry_at == archive.end()) return std::nullopt;
  json value = json::parse(entry_at->second, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  return value;
}

void put(Archive& archive, const std::string& name, const json& value) {
  archive[name] = value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void record(json& manifest, const Archive& archive, const std::string& folder) {
  const auto files = manifest.find("files");
  if (files == manifest.end() || !files->is_object()) return;
  for (auto& [name, entry] : files->items()) {
    const auto entry_at = archive.find(folder + name);
    if (entry_at == archive.end() || !entry.is_object()) continue;
    if (entry.contains("bytes")) entry["bytes"] = entry_at->second.size();
    if (entry.contains("sha256")) entry["sha256"] = digest(entry_at->second);
  }
}

void replace(json& value, const char* key, const std::string& by) {
  if (value.contains(key) && value[key].is_string()) value[key] = by;
}

}  // namespace

std::optional<Archive> unpack(const std::uint8_t* data, std::size_t size) {
  Archive archive;
  std::size_t at = 0;
  const auto number = [&](std::size_t bytes, std::size_t& out) {
    if (size - at < bytes) return false;
    out = 0;
    for (std::size_t i = 0; i < bytes; ++i) out |= std::size_t{data[at + i]} << 8 * i;
    at += bytes;
    return out <= size - at;
  };
  while (at != size) {
    std::size_t length = 0;
    if (!number(2, length)) return std::nullopt;
    const std::string name(reinterpret_cast<const char*>(data) + at, length);
    at += length;
    if (!writable(name) || !number(4, length)) return std::nullopt;
    archive[name].assign(reinterpret_cast<const char*>(data) + at, length);
    at += length;
    if (archive.size() > most_files) return std::nullopt;
  }
  // A file's path must not be another file's folder.
  for (const auto& [name, contents] : archive)
    for (std::size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
      if (archive.count(name.substr(0, slash)) != 0) return std::nullopt;
  return archive;
}

std::string pack(const Archive& archive) {
  std::string bytes;
  const auto number = [&bytes](std::size_t value, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(value >> 8 * i & 0xff);
  };
  for (const auto& [name, contents] : archive) {
    number(name.size(), 2);
    bytes += name;
    number(contents.size(), 4);
    bytes += contents;
  }
  return bytes;
}

void seal(Archive& archive) {
  if (auto catalog = object_in(archive, "catalog/catalog.json")) {
    record(*catalog, archive, "catalog/");
    put(archive, "catalog/catalog.json", *catalog);
  }
  std::vector<std::string> variants;
  for (const auto& [name, contents] : archive)
    if (name.rfind("variants/", 0) == 0 && name.size() > 13 && name.substr(name.size() - 13) == "/variant.json")
      variants.push_back(name.substr(0, name.size() - 12));
  for (const std::string& folder : variants) {
    auto variant = object_in(archive, folder + "variant.json");
    if (!variant) continue;
    record(*variant, archive, folder);
    if (archive.count("catalog/catalog.json") != 0) replace(*variant, "catalog_sha256", digest(archive["catalog/catalog.json"]));
    put(archive, folder + "variant.json", *variant);
    if (auto policy = object_in(archive, folder + "policy.json")) {
      replace(*policy, "variant_sha256", digest(archive[folder + "variant.json"]));
      put(archive, folder + "policy.json", *policy);
    }
  }
  if (auto manifest = object_in(archive, "manifest.json")) {
    record(*manifest, archive, "");
    put(archive, "manifest.json", *manifest);
  }
}

}  // namespace rexit::fuzz

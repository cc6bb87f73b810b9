#include "files/sources/folder.hpp"

#include <algorithm>

#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

using platform::FileInfo;
using platform::Links;

constexpr std::size_t max_listed = 1000;

// Describes an existing file or folder. Throws for a symbolic link.
FileInfo info_of(const std::string& path) {
  const std::optional<FileInfo> info = platform::info_at(path, Links::refuse);
  if (!info) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", platform::error_text());
  if (info->kind == FileInfo::Kind::link) fail(REXIT_CORRUPT, path, ": is a symbolic link, which a bundle must not contain");
  return *info;
}

// Throws for a symbolic link at any component.
FileInfo info_below(const Folder& folder, const std::string& path) {
  FileInfo info;
  for (std::size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end == 0 ? 0 : end + 1);
    info = info_of(folder.where(path.substr(0, end)));
  }
  return info;
}

}  // namespace

bool Folder::has(const std::string& path) const { return platform::info_at(where(path), Links::refuse).has_value(); }

void Folder::check_file(const std::string& path, std::size_t bytes) const {
  const FileInfo info = info_below(*this, path);
  if (info.kind != FileInfo::Kind::file) fail(REXIT_CORRUPT, where(path), ": is not a plain file");
  if (info.bytes != bytes)
    fail(REXIT_CORRUPT, where(path), ": ", info.bytes, " bytes, expected ", bytes, " (truncated or edited)");
}

void Folder::check_folder(const std::string& path) const {
  if (has(path) && info_below(*this, path).kind != FileInfo::Kind::folder) fail(REXIT_CORRUPT, where(path), ": is not a folder");
}

std::vector<std::string> Folder::folders(const std::string& path) const {
  check_folder(path);
  std::vector<std::string> names, entries = platform::list(where(path), max_listed + 1);
  if (entries.size() > max_listed) fail(REXIT_CORRUPT, where(path), ": has more than ", max_listed, " entries");
  for (std::string& name : entries) {
    const std::optional<FileInfo> info = platform::info_at(where(path + "/" + name), Links::refuse);
    if (info && info->kind == FileInfo::Kind::folder) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace rexit::core

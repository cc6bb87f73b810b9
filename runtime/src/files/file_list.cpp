#include "files/file_list.hpp"

#include <algorithm>
#include <limits>

#include "base/status.hpp"
#include "files/sha256.hpp"

namespace rexit::core {

const char* path_error(const std::string& path) {
  if (path.find('\\') != std::string::npos || path.find('\0') != std::string::npos) return "contains a backslash or a NUL byte";
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part.empty()) return "is absolute or has an empty component";
    if (part == "." || part == "..") return "has a `.` or `..` component";
    begin = end + 1;
  }
  return nullptr;
}

void check_relative_path(const std::string& path, const Json& where) {
  if (const char* problem = path_error(path)) fail(REXIT_CORRUPT, where.where(), ": path `", path, "` ", problem);
}

FileList read_file_sizes(const Json& files) {
  FileList list;
  for (const auto& [path, entry] : files.members()) {
    check_relative_path(path, files);
    const std::string sha256 = entry.at("sha256").string();
    if (sha256.size() != 64 || sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
      fail(REXIT_CORRUPT, entry.where(), " sha256: is not 64 lower-case hex digits");
    list.emplace(path, FileEntry{entry.at("bytes").size(0, std::numeric_limits<std::int64_t>::max()), sha256});
  }
  return list;
}

void check_files(const Folder& bundle, const std::string& folder, const FileList& files,
                 std::initializer_list<std::string> needed) {
  for (const std::string& name : needed)
    if (files.count(name) == 0)
      fail(REXIT_CORRUPT, folder.empty() ? bundle.path() : bundle.where(folder.substr(0, folder.size() - 1)),
           ": its manifest does not list `", name, "`");
  for (const auto& [name, entry] : files) bundle.check_file(folder + name, entry.bytes);
}

void check_digest(const File& file, const FileEntry& entry) {
  const std::string digest = sha256(file.data(), file.size());
  if (digest != entry.sha256)
    fail(REXIT_CORRUPT, file.path(), ": SHA-256 ", digest.substr(0, 12), "…, expected ", entry.sha256.substr(0, 12),
         "… (edited)");
}

}  // namespace rexit::core

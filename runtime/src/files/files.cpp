#include "files/files.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "base/status.hpp"
#include "files/sha256.hpp"

namespace rexit::core {

void check_relative_path(const std::string& path, const Json& where) {
  const auto refuse = [&](const char* reason) { fail(REXIT_CORRUPT, where.where(), ": path `", path, "` ", reason); };
  if (path.find('\\') != std::string::npos || path.find('\0') != std::string::npos) refuse("contains a backslash or a NUL byte");
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part.empty()) refuse("is absolute or has an empty component");
    if (part == "." || part == "..") refuse("has a `.` or `..` component");
    begin = end + 1;
  }
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

void check_files(const std::string& folder, const FileList& files, std::initializer_list<std::string> needed) {
  for (const std::string& name : needed)
    if (files.count(name) == 0) fail(REXIT_CORRUPT, folder, ": its manifest does not list `", name, "`");
  for (const auto& [name, entry] : files) {
    struct stat info{};
    for (std::size_t end = 0; end != std::string::npos;) {
      end = name.find('/', end == 0 ? 0 : end + 1);
      const std::string path = folder + "/" + name.substr(0, end);
      if (::lstat(path.c_str(), &info) != 0) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
      if (S_ISLNK(info.st_mode)) fail(REXIT_CORRUPT, path, ": is a symbolic link, which a bundle must not contain");
    }
    const std::string path = folder + "/" + name;
    if (!S_ISREG(info.st_mode)) fail(REXIT_CORRUPT, path, ": is not a plain file");
    if (static_cast<std::uint64_t>(info.st_size) != entry.bytes)
      fail(REXIT_CORRUPT, path, ": ", info.st_size, " bytes, expected ", entry.bytes, " (truncated or edited)");
  }
}

void check_digest(const MappedFile& file, const FileEntry& entry) {
  const std::string digest = sha256(file.data(), file.size());
  if (digest != entry.sha256)
    fail(REXIT_CORRUPT, file.path(), ": SHA-256 ", digest.substr(0, 12), "…, expected ", entry.sha256.substr(0, 12),
         "… (edited)");
}

void check_folder(const std::string& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
  if (S_ISLNK(info.st_mode)) fail(REXIT_CORRUPT, path, ": is a symbolic link, which a bundle must not contain");
  if (!S_ISDIR(info.st_mode)) fail(REXIT_CORRUPT, path, ": is not a folder");
}

bool exists(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0;
}

}  // namespace rexit::core

#include "files/folder.hpp"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_listed = 1000;

// Of a file or folder that is there. Throws for a symbolic link.
struct stat info_of(const std::string& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
  if (S_ISLNK(info.st_mode)) fail(REXIT_CORRUPT, path, ": is a symbolic link, which a bundle must not contain");
  return info;
}

}  // namespace

bool Folder::has(const std::string& path) const {
  struct stat info{};
  return ::lstat(where(path).c_str(), &info) == 0;
}

void Folder::check_file(const std::string& path, std::size_t bytes) const {
  struct stat info{};
  for (std::size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end == 0 ? 0 : end + 1);
    info = info_of(where(path.substr(0, end)));
  }
  if (!S_ISREG(info.st_mode)) fail(REXIT_CORRUPT, where(path), ": is not a plain file");
  if (static_cast<std::uint64_t>(info.st_size) != bytes)
    fail(REXIT_CORRUPT, where(path), ": ", info.st_size, " bytes, expected ", bytes, " (truncated or edited)");
}

void Folder::check_folder(const std::string& path) const {
  if (has(path) && !S_ISDIR(info_of(where(path)).st_mode)) fail(REXIT_CORRUPT, where(path), ": is not a folder");
}

std::vector<std::string> Folder::folders(const std::string& path) const {
  check_folder(path);
  std::vector<std::string> names;
  const auto close = [](DIR* directory) { ::closedir(directory); };
  const std::unique_ptr<DIR, decltype(close)> entries(::opendir(where(path).c_str()), close);
  while (const dirent* entry = entries == nullptr || names.size() == max_listed ? nullptr : ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    struct stat info{};
    if (name != "." && name != ".." && ::lstat(where(path + "/" + name).c_str(), &info) == 0 && S_ISDIR(info.st_mode))
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace rexit::core

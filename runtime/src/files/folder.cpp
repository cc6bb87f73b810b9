#include "files/folder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_listed = 1000;

FileInfo file_info(const struct stat& info) noexcept {
#ifdef __APPLE__
  const timespec& modified = info.st_mtimespec;
#else
  const timespec& modified = info.st_mtim;
#endif
  constexpr std::int64_t nanoseconds = 1'000'000'000;
  const FileInfo::Kind kind = S_ISREG(info.st_mode)   ? FileInfo::Kind::file
                              : S_ISDIR(info.st_mode) ? FileInfo::Kind::folder
                              : S_ISLNK(info.st_mode) ? FileInfo::Kind::link
                                                      : FileInfo::Kind::other;
  // Wraps around for times that no file has: it is only compared.
  const auto time = static_cast<std::int64_t>(static_cast<std::uint64_t>(modified.tv_sec) * nanoseconds +
                                              static_cast<std::uint64_t>(modified.tv_nsec));
  return {kind, static_cast<std::uint64_t>(info.st_size), static_cast<std::uint64_t>(info.st_dev),
          static_cast<std::uint64_t>(info.st_ino), time};
}

// Describes a link itself. nullopt: failed, with errno.
std::optional<FileInfo> info_at(const std::string& path) noexcept {
  struct stat info{};
  return ::lstat(path.c_str(), &info) != 0 ? std::nullopt : std::make_optional(file_info(info));
}

std::optional<FileInfo> info_of(int descriptor) noexcept {
  struct stat info{};
  return ::fstat(descriptor, &info) != 0 ? std::nullopt : std::make_optional(file_info(info));
}

// Throws for a symbolic link.
FileInfo info_or_fail(const std::string& path) {
  const std::optional<FileInfo> info = info_at(path);
  if (!info) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
  if (info->kind == FileInfo::Kind::link) fail(REXIT_CORRUPT, path, ": is a symbolic link, which a bundle must not contain");
  return *info;
}

// -1: failed, with errno. O_NONBLOCK: opening a FIFO in the file's place must not hang.
int open_file(const std::string& path, bool& was_link) noexcept {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  was_link = descriptor < 0 && errno == ELOOP;
  return descriptor;
}

// Opens one component after another: a link put there meanwhile is refused, too. -1: failed, with errno.
int open_below(const std::string& folder, const std::string& path, bool& was_link) {
#ifdef O_PATH
  constexpr int access_folder = O_PATH;  // needs no permission to list it
#else
  constexpr int access_folder = O_RDONLY;
#endif
  was_link = false;
  int descriptor = ::open(folder.c_str(), access_folder | O_DIRECTORY | O_CLOEXEC);
  for (std::size_t begin = 0; descriptor >= 0 && begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const int flags = end == path.size() ? O_RDONLY | O_NONBLOCK : access_folder | O_DIRECTORY;
    const int parent = descriptor;
    try {
      const std::string component = path.substr(begin, end - begin);
      descriptor = ::openat(parent, component.c_str(), flags | O_NOFOLLOW | O_CLOEXEC);
      const int error = errno;
      struct stat info{};
      // The error for a link differs between systems.
      was_link = descriptor < 0 && ::fstatat(parent, component.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
      ::close(parent);
      errno = error;
    } catch (...) {
      ::close(parent);
      throw;
    }
    begin = end + 1;
  }
  return descriptor;
}

// The descriptor, or throws.
int checked_descriptor(int descriptor, bool was_link, const std::string& path) {
  if (was_link) fail(REXIT_CORRUPT, path, ": is a symbolic link or below one, which is not followed");
  if (descriptor < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", std::strerror(errno));
  return descriptor;
}

}  // namespace

class File::Mapping {
 public:
  Mapping(const std::string& path, int descriptor) : file_{descriptor} {
    const std::optional<FileInfo> info = info_of(descriptor);
    if (!info) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
    if (info->kind != FileInfo::Kind::file) fail(REXIT_CORRUPT, path, ": is not a plain file");
    info_ = *info;
    if (size() == 0) return;  // empty files cannot be mapped
    pages_ = ::mmap(nullptr, size(), PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (pages_ == MAP_FAILED) fail(REXIT_NOT_FOUND, path, ": cannot be mapped: ", std::strerror(errno));
  }
  ~Mapping() {
    if (pages_ != nullptr) ::munmap(pages_, size());
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const unsigned char* data() const noexcept { return static_cast<const unsigned char*>(pages_); }
  std::size_t size() const noexcept { return static_cast<std::size_t>(info_.bytes); }
  bool is_unchanged() const noexcept {
    const std::optional<FileInfo> info = info_of(file_.number);
    return info && info->is_same_version(info_);
  }

 private:
  struct Descriptor {
    int number;
    ~Descriptor() { ::close(number); }
  };

  Descriptor file_;  // stays open: the path may name another file by now
  FileInfo info_;
  void* pages_ = nullptr;  // null: the file is empty
};

File::File(const std::string& path)
    : File(path, [&] {
        bool was_link = false;
        const int descriptor = open_file(path, was_link);
        return checked_descriptor(descriptor, was_link, path);
      }()) {}

File::File(const std::string& folder, const std::string& path)
    : File(folder + "/" + path, [&] {
        bool was_link = false;
        const int descriptor = open_below(folder, path, was_link);
        return checked_descriptor(descriptor, was_link, folder + "/" + path);
      }()) {}

File::File(std::string path, int descriptor)
    : path_(std::move(path)),
      mapping_(std::make_shared<const Mapping>(path_, descriptor)),
      data_(mapping_->data()),
      size_(mapping_->size()) {}

void File::check_unchanged() const {
  if (mapping_ != nullptr && !mapping_->is_unchanged())
    fail(REXIT_MISMATCH, path_, ": was modified while the bundle was open; replace files by renaming, and open the bundle again");
}

bool Folder::has(const std::string& path) const { return info_at(where(path)).has_value(); }

// Throws for a symbolic link at any component.
FileInfo Folder::info_below(const std::string& path) const {
  FileInfo info;
  for (std::size_t end = 0; end != std::string::npos;) {
    end = path.find('/', end == 0 ? 0 : end + 1);
    info = info_or_fail(where(path.substr(0, end)));
  }
  return info;
}

void Folder::check_file(const std::string& path, std::size_t bytes) const {
  const FileInfo info = info_below(path);
  if (info.kind != FileInfo::Kind::file) fail(REXIT_CORRUPT, where(path), ": is not a plain file");
  if (info.bytes != bytes)
    fail(REXIT_CORRUPT, where(path), ": ", info.bytes, " bytes, expected ", bytes, " (truncated or edited)");
}

void Folder::check_folder(const std::string& path) const {
  if (has(path) && info_below(path).kind != FileInfo::Kind::folder) fail(REXIT_CORRUPT, where(path), ": is not a folder");
}

std::vector<std::string> Folder::folders(const std::string& path) const {
  check_folder(path);
  std::vector<std::string> names;
  const auto close = [](DIR* directory) { ::closedir(directory); };
  const std::unique_ptr<DIR, decltype(close)> entries(::opendir(where(path).c_str()), close);
  std::size_t listed = 0;
  while (const dirent* entry = entries == nullptr ? nullptr : ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (++listed > max_listed) fail(REXIT_CORRUPT, where(path), ": has more than ", max_listed, " entries");
    const std::optional<FileInfo> info = info_at(where(path + "/" + name));
    if (info && info->kind == FileInfo::Kind::folder) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace rexit::core

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstring>
#include <memory>
#include <thread>

#include "base/platform.hpp"

namespace rexit::core::platform {
namespace {

thread_local std::string library_error;  // instead of errno, if it is not empty

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

}  // namespace

std::string error_text() {
  const int error = errno;
  if (library_error.empty()) return std::strerror(error);
  std::string text;
  text.swap(library_error);
  return text;
}

std::optional<FileInfo> info_at(const std::string& path, Links links) noexcept {
  struct stat info{};
  const int failed = links == Links::follow ? ::stat(path.c_str(), &info) : ::lstat(path.c_str(), &info);
  return failed != 0 ? std::nullopt : std::make_optional(file_info(info));
}

std::optional<FileInfo> info_of(int file) noexcept {
  struct stat info{};
  return ::fstat(file, &info) != 0 ? std::nullopt : std::make_optional(file_info(info));
}

std::vector<std::string> list(const std::string& folder, std::size_t limit) {
  std::vector<std::string> names;
  const auto close = [](DIR* directory) { ::closedir(directory); };
  const std::unique_ptr<DIR, decltype(close)> entries(::opendir(folder.c_str()), close);
  while (const dirent* entry = entries == nullptr || names.size() == limit ? nullptr : ::readdir(entries.get()))
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) names.emplace_back(entry->d_name);
  return names;
}

// O_NONBLOCK: opening a FIFO in the file's place must not hang.
int open_to_read(const std::string& path, Links links, bool& was_link) noexcept {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | (links == Links::refuse ? O_NOFOLLOW : 0));
  was_link = file < 0 && links == Links::refuse && errno == ELOOP;
  return file;
}

// Opens one component after another: a link put there meanwhile is refused, too.
int open_below(const std::string& folder, const std::string& path, bool& was_link) noexcept try {
#ifdef O_PATH
  constexpr int access_folder = O_PATH;  // needs no permission to list it
#else
  constexpr int access_folder = O_RDONLY;
#endif
  was_link = false;
  int file = ::open(folder.c_str(), access_folder | O_DIRECTORY | O_CLOEXEC);
  for (std::size_t begin = 0; file >= 0 && begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string component = path.substr(begin, end - begin);
    const int flags = end == path.size() ? O_RDONLY | O_NONBLOCK : access_folder | O_DIRECTORY;
    const int parent = file;
    file = ::openat(parent, component.c_str(), flags | O_NOFOLLOW | O_CLOEXEC);
    const int error = errno;
    struct stat info{};
    // The error for a link differs between systems.
    was_link = file < 0 && ::fstatat(parent, component.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
    ::close(parent);
    errno = error;
    begin = end + 1;
  }
  return file;
} catch (...) {  // out of memory
  errno = ENOMEM;
  return -1;
}

void close(int file) noexcept { ::close(file); }

void* map(int file, std::size_t bytes) noexcept {
  void* memory = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

void unmap(void* memory, std::size_t bytes) noexcept { ::munmap(memory, bytes); }

void* load_library(const char* path) noexcept {
  void* library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) try {
      library_error = ::dlerror();
    } catch (...) {  // out of memory: errno's text
    }
  return library;
}

void* symbol(void* library, const char* name) noexcept { return ::dlsym(library, name); }

#ifdef __APPLE__
const char* const onnxruntime_names[2] = {"libonnxruntime.1.dylib", "libonnxruntime.dylib"};
#else
const char* const onnxruntime_names[2] = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif

int cores() noexcept {
#ifdef __linux__
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string architecture() {
  ::utsname system{};
  return ::uname(&system) == 0 ? system.machine : "";
}

NativePath native_path(const std::string& path) { return path; }

CLocale::CLocale() noexcept {
  static const locale_t c_locale = ::newlocale(LC_ALL_MASK, "C", nullptr);  // null, out of memory: uselocale() changes nothing
  previous_ = ::uselocale(c_locale);
}

CLocale::~CLocale() { ::uselocale(static_cast<locale_t>(previous_)); }

}  // namespace rexit::core::platform

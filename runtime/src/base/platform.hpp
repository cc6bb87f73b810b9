// What differs between operating systems: files, shared libraries, processors and locales. platform_posix.cpp is for Linux and
// macOS, platform_windows.cpp for Windows; nothing else asks which one it is.
//
// Paths are UTF-8. A function that fails returns what its comment says; error_text() then describes this thread's last failure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rexit::core::platform {

std::string error_text();

struct FileInfo {
  enum class Kind { file, folder, link, other };
  Kind kind = Kind::other;
  std::uint64_t bytes = 0;
  std::uint64_t device = 0, index = 0;  // together identify a file while it exists
  std::int64_t modified = 0;            // in the file system's unit

  bool is_same_version(const FileInfo& other) const noexcept {
    return device == other.device && index == other.index && bytes == other.bytes && modified == other.modified;
  }
};

enum class Links { follow, refuse };

// Links::refuse: describes a link itself. nullopt: failed.
std::optional<FileInfo> info_at(const std::string& path, Links links) noexcept;
std::optional<FileInfo> info_of(int file) noexcept;
// Names in a folder, in any order, at most `limit`; none if it cannot be read.
std::vector<std::string> list(const std::string& folder, std::size_t limit);

// Descriptors, not inherited by child processes; -1: failed. Opening a pipe does not wait for its writer. `was_link`: set if
// Links::refuse met a link.
int open_to_read(const std::string& path, Links links, bool& was_link) noexcept;
// A file below a folder; no component of `path` may be a link, but `folder` may be reached by links. `path` is relative, with `/`
// between components, none of them `.` or `..`. On Windows only the last component is checked.
int open_below(const std::string& folder, const std::string& path, bool& was_link) noexcept;
void close(int file) noexcept;

// Maps the first `bytes` of a file into memory, read-only. Null: failed.
void* map(int file, std::size_t bytes) noexcept;
void unmap(void* memory, std::size_t bytes) noexcept;

// A shared library, never unloaded; null: failed.
void* load_library(const char* path) noexcept;
void* symbol(void* library, const char* name) noexcept;
// Names of ONNX Runtime's library, the preferred one first.
extern const char* const onnxruntime_names[2];

// Processors that this process may use.
int cores() noexcept;
// As in `uname -m`; "": unknown.
std::string architecture();

// A path as ONNX Runtime takes it.
#ifdef _WIN32
using NativePath = std::wstring;
#else
using NativePath = std::string;
#endif
NativePath native_path(const std::string& path);

// While it lives, C functions of this thread read and write numbers as in the C locale, whatever the program's locale.
class CLocale {
 public:
  CLocale() noexcept;
  ~CLocale();
  CLocale(const CLocale&) = delete;
  CLocale& operator=(const CLocale&) = delete;

 private:
  void* previous_;
};

}  // namespace rexit::core::platform

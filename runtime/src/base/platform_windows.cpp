#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
// Before the headers that follow.
#include <fcntl.h>
#include <io.h>
#include <sys/stat.h>

#include <algorithm>
#include <bitset>
#include <climits>
#include <clocale>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>

#include "base/platform.hpp"

namespace rexit::core::platform {
namespace {

// A handle that is closed at the end of its scope.
class Handle {
 public:
  explicit Handle(HANDLE handle) : handle_(handle) {}
  ~Handle() {
    if (is_open()) ::CloseHandle(handle_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  bool is_open() const noexcept { return handle_ != nullptr && handle_ != INVALID_HANDLE_VALUE; }
  HANDLE get() const noexcept { return handle_; }
  HANDLE release() noexcept { return std::exchange(handle_, nullptr); }

 private:
  HANDLE handle_;
};

std::string to_utf8(const wchar_t* text) {
  const int size = ::WideCharToMultiByte(CP_UTF8, 0, text, -1, nullptr, 0, nullptr, nullptr);
  std::string result(size > 0 ? static_cast<std::size_t>(size) : 1, '\0');
  if (size > 0) ::WideCharToMultiByte(CP_UTF8, 0, text, -1, result.data(), size, nullptr, nullptr);
  result.pop_back();
  return result;
}

std::uint64_t join(DWORD high, DWORD low) noexcept { return static_cast<std::uint64_t>(high) << 32 | low; }

HANDLE open_handle(const std::string& path, DWORD access, Links links) {
  constexpr DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
  // Without backup semantics a folder cannot be opened.
  const DWORD flags = FILE_FLAG_BACKUP_SEMANTICS | (links == Links::refuse ? FILE_FLAG_OPEN_REPARSE_POINT : 0);
  return ::CreateFileW(native_path(path).c_str(), access, share, nullptr, OPEN_EXISTING, flags, nullptr);
}

std::optional<FileInfo> file_info(HANDLE handle) noexcept {
  BY_HANDLE_FILE_INFORMATION info{};
  if (::GetFileType(handle) != FILE_TYPE_DISK) return FileInfo{};
  if (::GetFileInformationByHandle(handle, &info) == 0) return std::nullopt;
  const FileInfo::Kind kind = (info.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0 ? FileInfo::Kind::link
                              : (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0   ? FileInfo::Kind::folder
                                                                                          : FileInfo::Kind::file;
  return FileInfo{kind, join(info.nFileSizeHigh, info.nFileSizeLow), info.dwVolumeSerialNumber,
                  join(info.nFileIndexHigh, info.nFileIndexLow),
                  static_cast<std::int64_t>(join(info.ftLastWriteTime.dwHighDateTime, info.ftLastWriteTime.dwLowDateTime))};
}

// What CLocale restores.
struct ThreadLocale {
  int mode;
  std::string numbers;
};

HANDLE handle_of(int file) noexcept { return reinterpret_cast<HANDLE>(::_get_osfhandle(file)); }

}  // namespace

std::string error_text() {
  wchar_t text[512] = L"";
  const DWORD error = ::GetLastError();
  const DWORD size = ::FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS | FORMAT_MESSAGE_MAX_WIDTH_MASK,
                                      nullptr, error, 0, text, static_cast<DWORD>(std::size(text)), nullptr);
  return size != 0 ? to_utf8(text) : "error " + std::to_string(error);
}

std::optional<FileInfo> info_at(const std::string& path, Links links) noexcept try {
  const Handle handle(open_handle(path, FILE_READ_ATTRIBUTES, links));
  return handle.is_open() ? file_info(handle.get()) : std::nullopt;
} catch (...) {  // out of memory
  return std::nullopt;
}

std::optional<FileInfo> info_of(int file) noexcept { return file_info(handle_of(file)); }

std::vector<std::string> list(const std::string& folder, std::size_t limit) {
  std::vector<std::string> names;
  WIN32_FIND_DATAW entry{};
  const HANDLE search = ::FindFirstFileW(native_path(folder + "/*").c_str(), &entry);
  if (search == INVALID_HANDLE_VALUE) return names;
  do {
    if (std::wcscmp(entry.cFileName, L".") != 0 && std::wcscmp(entry.cFileName, L"..") != 0)
      names.push_back(to_utf8(entry.cFileName));
  } while (names.size() < limit && ::FindNextFileW(search, &entry) != 0);
  ::FindClose(search);
  return names;
}

int open_to_read(const std::string& path, Links links, bool& was_link) noexcept try {
  was_link = false;
  Handle handle(open_handle(path, GENERIC_READ, links));
  if (!handle.is_open()) return -1;
  if (const auto info = file_info(handle.get()); info && info->kind == FileInfo::Kind::link) {
    was_link = true;
    return -1;
  }
  const int file = ::_open_osfhandle(reinterpret_cast<intptr_t>(handle.get()), _O_RDONLY | _O_BINARY | _O_NOINHERIT);
  if (file >= 0) handle.release();  // the descriptor owns it
  return file;
} catch (...) {  // out of memory
  return -1;
}

int open_below(const std::string& folder, const std::string& path, bool& was_link) noexcept try {
  return open_to_read(folder + "/" + path, Links::refuse, was_link);
} catch (...) {  // out of memory
  return -1;
}

void close(int file) noexcept { ::_close(file); }

void* map(int file, std::size_t bytes) noexcept {
  // The view keeps the mapping.
  const Handle mapping(::CreateFileMappingW(handle_of(file), nullptr, PAGE_READONLY, 0, 0, nullptr));
  if (!mapping.is_open()) return nullptr;
  return ::MapViewOfFile(mapping.get(), FILE_MAP_READ, 0, 0, bytes);
}

void unmap(void* memory, std::size_t) noexcept { ::UnmapViewOfFile(memory); }

void* load_library(const char* path) noexcept try {
  return reinterpret_cast<void*>(::LoadLibraryW(native_path(path).c_str()));
} catch (...) {  // out of memory
  return nullptr;
}

void* symbol(void* library, const char* name) noexcept {
  return reinterpret_cast<void*>(::GetProcAddress(static_cast<HMODULE>(library), name));
}

const char* const onnxruntime_names[2] = {"onnxruntime.dll", "libonnxruntime.dll"};

int cores() noexcept {
  DWORD_PTR process = 0, system = 0;
  if (::GetProcessAffinityMask(::GetCurrentProcess(), &process, &system) == 0) return 1;
  return std::max(1, static_cast<int>(std::bitset<sizeof process * CHAR_BIT>(process).count()));
}

std::string architecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "";
#endif
}

NativePath native_path(const std::string& path) {
  const int size = ::MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring result(size > 0 ? static_cast<std::size_t>(size) : 1, L'\0');
  if (size > 0) ::MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, result.data(), size);
  result.pop_back();
  return result;
}

CLocale::CLocale() noexcept : previous_(nullptr) {
  if (std::strcmp(std::localeconv()->decimal_point, ".") == 0) return;
  try {
    auto previous = std::make_unique<ThreadLocale>(ThreadLocale{0, std::setlocale(LC_NUMERIC, nullptr)});
    previous->mode = ::_configthreadlocale(_ENABLE_PER_THREAD_LOCALE);
    std::setlocale(LC_NUMERIC, "C");
    previous_ = previous.release();
  } catch (...) {  // out of memory: the program's locale applies
  }
}

CLocale::~CLocale() {
  const std::unique_ptr<const ThreadLocale> previous(static_cast<const ThreadLocale*>(previous_));
  if (previous == nullptr) return;
  std::setlocale(LC_NUMERIC, previous->numbers.c_str());
  ::_configthreadlocale(previous->mode);
}

}  // namespace rexit::core::platform

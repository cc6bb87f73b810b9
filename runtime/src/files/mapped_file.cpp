#include "files/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "base/status.hpp"

namespace rexit::core {
namespace {

timespec modification_time(const struct stat& info) {
#ifdef __APPLE__
  return info.st_mtimespec;
#else
  return info.st_mtim;
#endif
}

bool same_time(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

// O_NONBLOCK: opening a FIFO in the file's place must not hang.
int open_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0 && errno == ELOOP) fail(REXIT_CORRUPT, path, ": is a symbolic link, which is not followed");
  if (descriptor < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", std::strerror(errno));
  return descriptor;
}

}  // namespace

MappedFile::Descriptor::~Descriptor() {
  if (number >= 0) ::close(number);
}

MappedFile::MappedFile(const std::string& path) : MappedFile(path, open_file(path), 0, std::nullopt) {}

MappedFile::MappedFile(const std::string& name, int descriptor, std::uint64_t offset, std::optional<std::uint64_t> bytes)
    : path_(name), file_{descriptor} {
  struct stat info{};
  if (::fstat(file_.number, &info) != 0) fail(REXIT_NOT_FOUND, name, ": cannot be read: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(REXIT_CORRUPT, name, ": is not a plain file");
  file_bytes_ = static_cast<std::uint64_t>(info.st_size);
  device_ = info.st_dev;
  inode_ = info.st_ino;
  modified_ = modification_time(info);
  const std::uint64_t available = offset <= file_bytes_ ? file_bytes_ - offset : 0;
  if (offset > file_bytes_ || bytes.value_or(0) > available)
    fail(REXIT_CORRUPT, name, ": ", file_bytes_, " bytes, expected ", bytes.value_or(0), " from byte ", offset,
         " on (truncated)");
  const std::uint64_t mapped = bytes.value_or(available), skipped = offset % static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (mapped > std::numeric_limits<std::size_t>::max() - skipped)
    fail(REXIT_OUT_OF_MEMORY, name, ": ", mapped, " bytes exceed the address space");
  if (mapped == 0) return;  // mmap refuses empty files
  page_bytes_ = static_cast<std::size_t>(mapped + skipped);
  void* pages = ::mmap(nullptr, page_bytes_, PROT_READ, MAP_PRIVATE, file_.number, static_cast<off_t>(offset - skipped));
  if (pages == MAP_FAILED) fail(REXIT_NOT_FOUND, name, ": cannot be mapped: ", std::strerror(errno));
  pages_ = pages;
  data_ = static_cast<const unsigned char*>(pages) + skipped;
  size_ = static_cast<std::size_t>(mapped);
}

MappedFile::~MappedFile() {
  if (pages_ != nullptr) ::munmap(pages_, page_bytes_);
}

void MappedFile::check_unchanged() const {
  struct stat info{};
  if (::fstat(file_.number, &info) != 0 || static_cast<std::uint64_t>(info.st_size) != file_bytes_ ||
      !same_time(modification_time(info), modified_))
    fail(REXIT_MISMATCH, path_, ": was modified while the bundle was open; replace files by renaming, and open the bundle again");
}

bool MappedFile::is_replaced_at(const std::string& path) const noexcept {
  struct stat info{};
  return ::stat(path.c_str(), &info) != 0 || info.st_dev != device_ || info.st_ino != inode_ ||
         static_cast<std::uint64_t>(info.st_size) != file_bytes_ || !same_time(modification_time(info), modified_);
}

}  // namespace rexit::core

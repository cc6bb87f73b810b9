#include "files/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

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

}  // namespace

MappedFile::Descriptor::~Descriptor() {
  if (number >= 0) ::close(number);
}

// O_NONBLOCK: opening a FIFO in the file's place must not hang.
MappedFile::MappedFile(const std::string& path)
    : path_(path), file_{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)} {
  if (file_.number < 0 && errno == ELOOP) fail(REXIT_CORRUPT, path, ": is a symbolic link, which is not followed");
  if (file_.number < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", std::strerror(errno));
  struct stat info{};
  if (::fstat(file_.number, &info) != 0) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(REXIT_CORRUPT, path, ": is not a plain file");
  size_ = static_cast<std::size_t>(info.st_size);
  modified_ = modification_time(info);
  if (size_ == 0) return;  // mmap refuses empty files
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_.number, 0);
  if (data == MAP_FAILED) fail(REXIT_NOT_FOUND, path, ": cannot be mapped: ", std::strerror(errno));
  data_ = static_cast<const unsigned char*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<unsigned char*>(data_), size_);
}

void MappedFile::check_unchanged() const {
  struct stat info{};
  const bool is_there = ::fstat(file_.number, &info) == 0;
  const timespec modified = modification_time(info);
  if (!is_there || static_cast<std::size_t>(info.st_size) != size_ || modified.tv_sec != modified_.tv_sec ||
      modified.tv_nsec != modified_.tv_nsec)
    fail(REXIT_MISMATCH, path_, ": was modified while the bundle was open; replace files by renaming, and open the bundle again");
}

}  // namespace rexit::core

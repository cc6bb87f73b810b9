#include "mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "status.hpp"

namespace rexit::core {
namespace {

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: opening a FIFO someone put in the file's place must not hang.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  if (file.number < 0 && errno == ELOOP) fail(REXIT_CORRUPT, path, ": is a link, a bundle may hold none");
  if (file.number < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", std::strerror(errno));
  struct stat info{};
  if (::fstat(file.number, &info) != 0) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(REXIT_CORRUPT, path, ": is not a plain file");
  size_ = static_cast<std::size_t>(info.st_size);
  if (size_ == 0) return;  // mmap refuses empty files
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (data == MAP_FAILED) fail(REXIT_NOT_FOUND, path, ": cannot be mapped: ", std::strerror(errno));
  data_ = static_cast<const unsigned char*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<unsigned char*>(data_), size_);
}

}  // namespace rexit::core

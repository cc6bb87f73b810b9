#include "files/new_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t largest_write = std::size_t{1} << 30;  // Linux writes at most 2^31 bytes in a call

}  // namespace

NewFile::NewFile(const std::string& path) : path_(path), temporary_path_(path + ".XXXXXX") {
  file_ = ::mkostemp(temporary_path_.data(), O_CLOEXEC);
  if (file_ < 0) fail_errno("created");
}

NewFile::~NewFile() {
  if (file_ < 0) return;
  ::close(file_);
  if (!finished_) ::unlink(temporary_path_.c_str());
}

void NewFile::write(const void* data, std::size_t bytes) {
  const auto* next = static_cast<const char*>(data);
  while (bytes != 0) {
    const ssize_t written = ::write(file_, next, std::min(bytes, largest_write));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_errno("written");
    next += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void NewFile::finish() {
  if (::fsync(file_) != 0) fail_errno("written");
  if (std::rename(temporary_path_.c_str(), path_.c_str()) != 0) fail_errno("put in place");
  finished_ = true;
  // Makes the rename durable. The file is complete in either case, and some file systems refuse to sync a folder.
  const std::size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

void NewFile::fail_errno(const char* action) const {
  const int error = errno;
  fail(REXIT_WRITE_FAILED, path_, ": cannot be ", action, ": ", std::strerror(error));
}

}  // namespace rexit::core

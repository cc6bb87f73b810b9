#include "files/new_file.hpp"

#include <utility>

#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {

NewFile::NewFile(const std::string& path) : path_(path), temporary_path_(path) {
  file_ = platform::create_temporary(temporary_path_);
  if (file_ < 0) fail_to("created");
}

NewFile::~NewFile() {
  if (file_ < 0) return;
  platform::close(file_);
  platform::remove(temporary_path_);
}

void NewFile::write(const void* data, std::size_t bytes) {
  if (!platform::write(file_, data, bytes)) fail_to("written");
}

void NewFile::finish() {
  if (!platform::sync(file_)) fail_to("written");
  platform::close(std::exchange(file_, -1));  // Windows does not rename an open file
  if (!platform::replace(temporary_path_, path_)) {
    const std::string reason = platform::error_text();
    platform::remove(temporary_path_);
    fail(REXIT_WRITE_FAILED, path_, ": cannot be put in place: ", reason);
  }
  platform::sync_folder_of(path_);
}

void NewFile::fail_to(const char* action) const {
  fail(REXIT_WRITE_FAILED, path_, ": cannot be ", action, ": ", platform::error_text());
}

}  // namespace rexit::core

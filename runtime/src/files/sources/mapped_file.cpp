#include "files/sources/mapped_file.hpp"

#include <optional>

#include "base/status.hpp"

namespace rexit::core {
namespace {

int require_open(int descriptor, const std::string& path, bool was_link) {
  if (was_link) fail(REXIT_CORRUPT, path, ": is a symbolic link or below one, which is not followed");
  if (descriptor < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", platform::error_text());
  return descriptor;
}

int open_file(const std::string& path, platform::Links links) {
  bool was_link = false;
  const int descriptor = platform::open_to_read(path, links, was_link);
  return require_open(descriptor, path, was_link);
}

int open_file_below(const std::string& folder, const std::string& path) {
  bool was_link = false;
  const int descriptor = platform::open_below(folder, path, was_link);
  return require_open(descriptor, folder + "/" + path, was_link);
}

}  // namespace

MappedFile::Descriptor::~Descriptor() { platform::close(number); }

MappedFile::MappedFile(const std::string& path, platform::Links links) : MappedFile(path, open_file(path, links)) {}

MappedFile::MappedFile(const std::string& folder, const std::string& path)
    : MappedFile(folder + "/" + path, open_file_below(folder, path)) {}

MappedFile::MappedFile(const std::string& path, int descriptor) : file_{descriptor}, path_(path) {
  const std::optional<platform::FileInfo> info = platform::info_of(file_.number);
  if (!info) fail(REXIT_NOT_FOUND, path, ": cannot be read: ", platform::error_text());
  if (info->kind != platform::FileInfo::Kind::file) fail(REXIT_CORRUPT, path, ": is not a plain file");
  info_ = *info;
  size_ = static_cast<std::size_t>(info_.bytes);
  if (size_ != info_.bytes) fail(REXIT_OUT_OF_MEMORY, path, ": ", info_.bytes, " bytes exceed the address space");
  if (size_ == 0) return;  // empty files cannot be mapped
  pages_ = platform::map(file_.number, size_);
  if (pages_ == nullptr) fail(REXIT_NOT_FOUND, path, ": cannot be mapped: ", platform::error_text());
}

MappedFile::~MappedFile() {
  if (pages_ != nullptr) platform::unmap(pages_, size_);
}

void MappedFile::check_unchanged() const {
  const std::optional<platform::FileInfo> info = platform::info_of(file_.number);
  if (!info || !info->is_same_version(info_))
    fail(REXIT_MISMATCH, path_, ": was modified while the bundle was open; replace files by renaming, and open the bundle again");
}

bool MappedFile::is_replaced_at(const std::string& path) const noexcept {
  const std::optional<platform::FileInfo> info = platform::info_at(path, platform::Links::follow);
  return !info || !info->is_same_version(info_);
}

}  // namespace rexit::core

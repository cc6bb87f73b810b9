#include "files/mapped_file.hpp"

#include <limits>

#include "base/status.hpp"

namespace rexit::core {
namespace {

int open_file(const std::string& path) {
  bool is_link = false;
  const int descriptor = platform::open_to_read(path, platform::Links::refuse, is_link);
  if (is_link) fail(REXIT_CORRUPT, path, ": is a symbolic link, which is not followed");
  if (descriptor < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", platform::error_text());
  return descriptor;
}

}  // namespace

MappedFile::Descriptor::~Descriptor() {
  if (number >= 0) platform::close(number);
}

MappedFile::MappedFile(const std::string& path) : MappedFile(path, open_file(path), 0, std::nullopt) {}

MappedFile::MappedFile(const std::string& name, int descriptor, std::uint64_t offset, std::optional<std::uint64_t> bytes)
    : path_(name), file_{descriptor} {
  const std::optional<platform::FileInfo> info = platform::info_of(file_.number);
  if (!info) fail(REXIT_NOT_FOUND, name, ": cannot be read: ", platform::error_text());
  if (info->kind != platform::FileInfo::Kind::file) fail(REXIT_CORRUPT, name, ": is not a plain file");
  info_ = *info;
  const std::uint64_t available = offset <= info_.bytes ? info_.bytes - offset : 0;
  if (offset > info_.bytes || bytes.value_or(0) > available)
    fail(REXIT_CORRUPT, name, ": ", info_.bytes, " bytes, expected ", bytes.value_or(0), " from byte ", offset,
         " on (truncated)");
  const std::uint64_t mapped = bytes.value_or(available), skipped = offset % platform::mapping_step();
  if (mapped > std::numeric_limits<std::size_t>::max() - skipped)
    fail(REXIT_OUT_OF_MEMORY, name, ": ", mapped, " bytes exceed the address space");
  if (mapped == 0) return;  // empty files cannot be mapped
  mapped_bytes_ = static_cast<std::size_t>(mapped + skipped);
  pages_ = platform::map(file_.number, offset - skipped, mapped_bytes_);
  if (pages_ == nullptr) fail(REXIT_NOT_FOUND, name, ": cannot be mapped: ", platform::error_text());
  data_ = static_cast<const unsigned char*>(pages_) + skipped;
  size_ = static_cast<std::size_t>(mapped);
}

MappedFile::~MappedFile() {
  if (pages_ != nullptr) platform::unmap(pages_, mapped_bytes_);
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

#include "files/sources/mapped_file.hpp"

#include <optional>

#include "base/status.hpp"

namespace rexit::core {
namespace {

// What `open(was_link)` opens.
template <class Open>
int open_file(const std::string& path, const Open& open) {
  bool was_link = false;
  const int descriptor = open(was_link);
  if (was_link) fail(REXIT_CORRUPT, path, ": is a symbolic link or below one, which is not followed");
  if (descriptor < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", platform::error_text());
  return descriptor;
}

}  // namespace

MappedFile::Descriptor::~Descriptor() { platform::close(number); }

MappedFile::MappedFile(const std::string& path, platform::Links links)
    : MappedFile(path, open_file(path, [&](bool& was_link) { return platform::open_to_read(path, links, was_link); })) {}

MappedFile::MappedFile(const std::string& folder, const std::string& path)
    : MappedFile(folder + "/" + path,
                 open_file(folder + "/" + path, [&](bool& was_link) { return platform::open_below(folder, path, was_link); })) {}

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

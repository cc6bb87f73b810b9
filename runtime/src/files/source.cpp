#include "files/source.hpp"

#include "base/platform.hpp"
#include "base/status.hpp"
#include "files/archive.hpp"
#include "files/folder.hpp"

namespace rexit::core {
namespace {

File whole_file(const std::string& name, int descriptor, std::uint64_t offset, std::optional<std::uint64_t> bytes) {
  auto mapping = std::make_shared<const MappedFile>(name, descriptor, offset, bytes);
  const unsigned char* data = mapping->data();
  const std::size_t size = mapping->size();
  return {name, std::move(mapping), data, size};
}

}  // namespace

std::shared_ptr<const Source> open_source(const std::string& path) {
  const std::optional<platform::FileInfo> info = platform::info_at(path, platform::Links::follow);
  if (!info || info->kind != platform::FileInfo::Kind::file) return std::make_shared<const Folder>(path);
  bool is_link = false;
  const int descriptor = platform::open_to_read(path, platform::Links::follow, is_link);
  if (descriptor < 0) fail(REXIT_NOT_FOUND, path, ": cannot be opened: ", platform::error_text());
  return std::make_shared<const Archive>(whole_file(path, descriptor, 0, std::nullopt), path);
}

std::shared_ptr<const Source> open_archive(const std::string& name, std::shared_ptr<const void> owner, const unsigned char* data,
                                           std::size_t size) {
  return std::make_shared<const Archive>(File(name, std::move(owner), data, size));
}

std::shared_ptr<const Source> open_archive(const std::string& name, int descriptor, std::uint64_t offset,
                                           std::optional<std::uint64_t> bytes) {
  const int copy = platform::duplicate(descriptor);
  if (copy < 0) fail(REXIT_INVALID_ARGUMENT, name, ": file descriptor ", descriptor, " is not open: ", platform::error_text());
  return std::make_shared<const Archive>(whole_file(name, copy, offset, bytes));
}

}  // namespace rexit::core

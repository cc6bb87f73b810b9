#include "files/sources/source.hpp"

#include "base/platform.hpp"
#include "files/sources/archive.hpp"
#include "files/sources/folder.hpp"

namespace rexit::core {

std::shared_ptr<const Source> open_source(const std::string& path) {
  const std::optional<platform::FileInfo> info = platform::info_at(path, platform::Links::follow);
  if (!info || info->kind != platform::FileInfo::Kind::file) return std::make_shared<const Folder>(path);
  return std::make_shared<const Archive>(File(path, platform::Links::follow), path);
}

std::shared_ptr<const Source> open_archive(const std::string& name, const unsigned char* data, std::size_t size) {
  return std::make_shared<const Archive>(File(name, data, size));
}

}  // namespace rexit::core

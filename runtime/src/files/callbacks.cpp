#include "files/callbacks.hpp"

#include <memory>
#include <optional>

#include "base/status.hpp"

namespace rexit::core {

std::optional<std::size_t> CallbackSource::size_of(const std::string& path) const {
  std::size_t bytes = 0;
  const rexit_status status = callbacks_.get_size(callbacks_.context, path.c_str(), &bytes);
  if (status == REXIT_NOT_FOUND) return std::nullopt;
  if (status != REXIT_OK) fail(status, where(path), ": the program's get_size returned ", status_name(status));
  return bytes;
}

std::size_t CallbackSource::required_size(const std::string& path) const {
  const std::optional<std::size_t> bytes = size_of(path);
  if (!bytes) fail(REXIT_NOT_FOUND, where(path), ": is not among the program's files");
  return *bytes;
}

File CallbackSource::open(const std::string& path) const {
  const std::size_t bytes = required_size(path);
  const std::shared_ptr<unsigned char> memory = make_aligned(bytes);
  const rexit_status status = callbacks_.read(callbacks_.context, path.c_str(), memory.get(), bytes);
  if (status != REXIT_OK) fail(status, where(path), ": the program's read returned ", status_name(status));
  return {where(path), std::shared_ptr<const void>(memory), memory.get(), bytes};
}

void CallbackSource::check_file(const std::string& path, std::size_t bytes) const {
  const std::size_t size = required_size(path);
  if (size != bytes) fail(REXIT_CORRUPT, where(path), ": ", size, " bytes, expected ", bytes, " (truncated or edited)");
}

}  // namespace rexit::core

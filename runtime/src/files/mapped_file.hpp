// A file, or a part of one, mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/platform.hpp"

namespace rexit::core {

// The mapping shares the page cache with other processes and takes no memory of its own. The file must not be modified while it
// is mapped: reading a truncated page kills the process, and earlier checks may no longer hold. Only a copy of the file could
// prevent that. rexit's own tools replace files by renaming, which does not touch the mapped file.
class MappedFile {
 public:
  // The file at `path`, which must not be a symbolic link.
  explicit MappedFile(const std::string& path);
  // `bytes` of an open file, from `offset`; nullopt: to its end. Closes the descriptor in the end, also if it throws. `name`: for
  // messages.
  MappedFile(const std::string& name, int descriptor, std::uint64_t offset, std::optional<std::uint64_t> bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  const unsigned char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

  // Throws REXIT_MISMATCH if the file's size or modification time has changed since it was mapped.
  void check_unchanged() const;
  // Whether `path` now names another file, or a modified one.
  bool is_replaced_at(const std::string& path) const noexcept;

 private:
  std::string path_;
  struct Descriptor {
    int number;
    ~Descriptor();
  };

  Descriptor file_;  // stays open: the path may name another file by now
  platform::FileInfo info_;
  void* pages_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  const unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rexit::core

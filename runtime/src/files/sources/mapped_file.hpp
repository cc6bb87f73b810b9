// A file, or a part of one, mapped read-only into memory.
#pragma once

#include <cstddef>
#include <string>

#include "base/platform.hpp"

namespace rexit::core {

// The mapping shares the page cache with other processes and takes no memory of its own. The file must not be modified while it
// is mapped: reading a truncated page kills the process, and earlier checks may no longer hold. Only a copy of the file could
// prevent that. rexit's own tools replace files by renaming, which does not touch the mapped file.
class MappedFile {
 public:
  // The file at `path`. Links::refuse: throws REXIT_CORRUPT for a symbolic link.
  explicit MappedFile(const std::string& path, platform::Links links = platform::Links::refuse);
  // The file at `path` below a folder. Throws REXIT_CORRUPT if a component of `path` is a symbolic link.
  MappedFile(const std::string& folder, const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  const unsigned char* data() const noexcept { return static_cast<const unsigned char*>(pages_); }
  std::size_t size() const noexcept { return size_; }

  // Throws REXIT_MISMATCH if the file's size or modification time has changed since it was mapped.
  void check_unchanged() const;
  // Whether `path` now names another file, or a modified one.
  bool is_replaced_at(const std::string& path) const noexcept;

 private:
  MappedFile(const std::string& path, int descriptor);

  struct Descriptor {
    int number;
    ~Descriptor();
  };

  Descriptor file_;  // stays open: the path may name another file by now
  std::string path_;
  platform::FileInfo info_;
  void* pages_ = nullptr;  // null: the file is empty
  std::size_t size_ = 0;
};

}  // namespace rexit::core

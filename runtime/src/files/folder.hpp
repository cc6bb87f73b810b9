// A bundle's folder, and its files, mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rexit::core {

// A file's type, and what identifies its version.
struct FileInfo {
  enum class Kind { file, folder, link, other };
  Kind kind = Kind::other;
  std::uint64_t bytes = 0;
  std::uint64_t device = 0, index = 0;  // together identify a file while it exists
  std::int64_t modified = 0;            // nanoseconds

  bool is_same_version(const FileInfo& other) const noexcept {
    return device == other.device && index == other.index && bytes == other.bytes && modified == other.modified;
  }
};

// A file's bytes. Copies share the mapping.
//
// The mapping shares the page cache with other processes and takes no memory of its own. The file must not be modified while it
// is mapped: reading a truncated page kills the process, and earlier checks may no longer hold. Only a copy of the file could
// prevent that. rexit's own tools replace files by renaming, which does not touch the mapped file.
class File {
 public:
  // The file at `path`. Throws REXIT_NOT_FOUND; REXIT_CORRUPT for a symbolic link or what is no plain file.
  explicit File(const std::string& path);
  // The file at `path` below `folder`. Throws as above, REXIT_CORRUPT also if any component of `path` is a symbolic link;
  // `folder` may be reached by links. `path` is relative, with `/` between components, none of them `.` or `..`.
  File(const std::string& folder, const std::string& path);
  // Memory, which must outlive the file: for tests that count every byte that is read. `path`: for messages.
  File(std::string path, const unsigned char* data, std::size_t size) : path_(std::move(path)), data_(data), size_(size) {}

  const std::string& path() const noexcept { return path_; }
  const unsigned char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  // Throws REXIT_MISMATCH if the file's size or modification time has changed since it was mapped.
  void check_unchanged() const;

 private:
  class Mapping;

  File(std::string path, int descriptor);

  std::string path_;
  std::shared_ptr<const Mapping> mapping_;  // null: memory of the program
  const unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

// A folder of the file system. Paths are relative to it and have passed check_relative_path.
class Folder {
 public:
  explicit Folder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const noexcept { return path_; }
  std::string where(const std::string& path) const { return path_ + "/" + path; }

  bool has(const std::string& path) const;
  // Throws REXIT_NOT_FOUND.
  File open(const std::string& path) const { return File(path_, path); }
  // Throws unless `path` is a plain file of this size, reached without symbolic links.
  void check_file(const std::string& path, std::size_t bytes) const;
  // Throws if `path` is there and not a folder.
  void check_folder(const std::string& path) const;
  // Names of the folders in a folder, ascending; none if it is missing.
  std::vector<std::string> folders(const std::string& path) const;

 private:
  FileInfo info_below(const std::string& path) const;

  std::string path_;
};

}  // namespace rexit::core

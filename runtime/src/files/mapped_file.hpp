// A file mapped read-only into memory.
#pragma once

#include <time.h>

#include <cstddef>
#include <string>

namespace rexit::core {

// The mapping shares the page cache with other processes and takes no memory of its own. The file must not be modified while it
// is mapped: reading a page that was truncated away kills the process, and what was checked once may no longer hold; nothing
// short of copying the file could prevent that. rexit's own tools replace files by renaming, which leaves the mapped one alone.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  const unsigned char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

  // Throws REXIT_MISMATCH if the file was modified since it was mapped, judged by its size and modification time.
  void check_unchanged() const;

 private:
  std::string path_;
  struct Descriptor {
    int number;
    ~Descriptor();
  };

  Descriptor file_;  // kept open, since the path may name another file by now
  timespec modified_{};
  const unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rexit::core

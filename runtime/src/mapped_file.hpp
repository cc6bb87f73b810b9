// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <string>

namespace rexit::core {

// The mapping shares the page cache with other processes and costs no memory of its own. The file must not shrink while it is
// mapped: reading a page that is gone kills the process, and nothing short of copying the file can prevent that. rexit's own
// writers replace files by renaming, which leaves the mapped one alone.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  const unsigned char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  std::string path_;
  const unsigned char* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace rexit::core

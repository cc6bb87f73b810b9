// A file that appears under its name complete, or not at all.
#pragma once

#include <cstddef>
#include <string>

namespace rexit::core {

// Written under another name in the same folder, from where finish() renames it over what stood at `path`; without that nothing
// is left of it. Readable by its owner alone. All throw REXIT_WRITE_FAILED.
class NewFile {
 public:
  explicit NewFile(const std::string& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, std::size_t bytes);
  // The name it has until finish(), to read back what was written.
  const std::string& temporary() const noexcept { return temporary_; }
  // Returns once file and name are on the disk.
  void finish();

 private:
  [[noreturn]] void failed(const char* doing) const;

  std::string path_, temporary_;
  int file_ = -1;
  bool finished_ = false;
};

}  // namespace rexit::core

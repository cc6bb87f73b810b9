// A file's bytes in memory, read-only: a mapped file, or a part of an archive.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "files/sources/mapped_file.hpp"

namespace rexit::core {

class File {
 public:
  static constexpr std::size_t alignment = 64;  // what aligned() guarantees

  // A file of the file system, mapped.
  explicit File(const std::string& path, platform::Links links = platform::Links::refuse);
  // A file below a folder, mapped. Throws REXIT_CORRUPT if a component of `path` is a symbolic link.
  File(const std::string& folder, const std::string& path);
  // Memory, which must outlive the file. `path`: for messages.
  File(std::string path, const unsigned char* data, std::size_t size);

  const std::string& path() const noexcept { return path_; }
  const unsigned char* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

  // Throws REXIT_MISMATCH if the mapped file has changed.
  void check_unchanged() const {
    if (mapping_ != nullptr) mapping_->check_unchanged();
  }
  // Whether a mapped file's path now names another file, or a modified one.
  bool is_replaced_at(const std::string& path) const noexcept { return mapping_ != nullptr && mapping_->is_replaced_at(path); }
  // Bytes of this file as a file of its own.
  File part(std::string path, const unsigned char* data, std::size_t size) const;
  // This file, or a copy if its data are not aligned: archives may begin at any byte of a larger file.
  File aligned() &&;

 private:
  explicit File(std::shared_ptr<const MappedFile> mapping);

  std::string path_;
  std::shared_ptr<const void> copy_;           // null: the data are not a copy
  std::shared_ptr<const MappedFile> mapping_;  // null: memory of the program
  const unsigned char* data_;
  std::size_t size_;
};

}  // namespace rexit::core

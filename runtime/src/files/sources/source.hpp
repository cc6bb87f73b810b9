// Where a bundle's files come from: a folder or an archive. A path is relative to the bundle and has passed
// check_relative_path.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "files/sources/file.hpp"

namespace rexit::core {

class Source {
 public:
  virtual ~Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const std::string& name() const noexcept { return name_; }
  // A path in messages: "bundle.tar/manifest.json".
  std::string where(const std::string& path) const { return name_ + "/" + path; }

  virtual bool has(const std::string& path) const = 0;
  // Throws REXIT_NOT_FOUND.
  virtual File open(const std::string& path) const = 0;
  // Throws unless `path` is a plain file of this size, reached without symbolic links.
  virtual void check_file(const std::string& path, std::size_t bytes) const = 0;
  // Throws if `path` is there and not a folder.
  virtual void check_folder(const std::string&) const {}
  // Names of the folders in a folder, ascending; none if it is missing.
  virtual std::vector<std::string> folders(const std::string& path) const = 0;
  // Null: this source shows what is there now. Otherwise what has taken its place.
  virtual std::shared_ptr<const Source> replacement() const { return nullptr; }
  // Whether where(path) is a path of the file system.
  virtual bool is_folder() const noexcept { return false; }

 protected:
  explicit Source(std::string name) : name_(std::move(name)) {}

 private:
  std::string name_;
};

// The bundle at a path: an archive if it is a plain file, else a folder.
std::shared_ptr<const Source> open_source(const std::string& path);
// An archive in memory, which must outlive it.
std::shared_ptr<const Source> open_archive(const std::string& name, const unsigned char* data, std::size_t size);

}  // namespace rexit::core

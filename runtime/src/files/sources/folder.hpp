// A bundle in a folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "files/sources/source.hpp"

namespace rexit::core {

class Folder final : public Source {
 public:
  explicit Folder(std::string path) : Source(std::move(path)) {}

  bool has(const std::string& path) const override;
  File open(const std::string& path) const override { return File(name(), path); }
  void check_file(const std::string& path, std::size_t bytes) const override;
  void check_folder(const std::string& path) const override;
  std::vector<std::string> folders(const std::string& path) const override;
  bool is_folder() const noexcept override { return true; }
};

}  // namespace rexit::core

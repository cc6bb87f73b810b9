// A bundle in a tar archive: ustar, uncompressed, read where it lies.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "files/sources/source.hpp"

namespace rexit::core {

class Archive final : public Source {
 public:
  // All of `whole`. Reads the headers alone. Throws REXIT_CORRUPT for a damaged archive, a link or a name that a bundle must not
  // contain; REXIT_UNSUPPORTED for extensions of the format. `path`: the path of `whole`, to notice a replacement; empty: none.
  explicit Archive(File whole, std::string path = {});

  bool has(const std::string& path) const override { return members_.count(path) != 0; }
  File open(const std::string& path) const override;
  void check_file(const std::string& path, std::size_t bytes) const override;
  std::vector<std::string> folders(const std::string& path) const override;
  std::shared_ptr<const Source> replacement() const override;

 private:
  struct Member {
    const unsigned char* data;
    std::size_t size;
  };

  const Member& find(const std::string& path) const;

  File whole_;
  std::string path_;
  std::map<std::string, Member> members_;  // plain files by their paths
};

}  // namespace rexit::core

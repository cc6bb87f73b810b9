// A bundle's files: in memory, in a folder, or in a tar archive, which is how the fuzzers' inputs hold a whole bundle.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

namespace tar {

using Files = std::map<std::string, std::string>;  // from a path to contents

constexpr std::size_t block = 512;

inline bool is_header(const std::string& archive, std::size_t at) { return archive.compare(at + 257, 5, "ustar") == 0; }

inline std::string member(const std::string& name, const std::string& contents) {
  std::string text(block, '\0');
  text.replace(0, name.size(), name);
  std::snprintf(text.data() + 124, 12, "%011zo", contents.size());
  text[156] = '0';
  std::memcpy(text.data() + 257, "ustar\00000", 8);
  std::memset(text.data() + 148, ' ', 8);
  unsigned sum = 0;
  for (const char byte : text) sum += static_cast<unsigned char>(byte);
  std::snprintf(text.data() + 148, 8, "%06o", sum);
  return text + contents + std::string((block - contents.size() % block) % block, '\0');
}

inline std::string pack(const Files& files) {
  std::string archive;
  for (const auto& [name, contents] : files) archive += member(name, contents);
  return archive + std::string(2 * block, '\0');
}

// The files of an archive, up to the first header that cannot be followed. Names have no prefix.
inline Files unpack(const std::string& archive) {
  Files files;
  for (std::size_t at = 0; at + block <= archive.size() && is_header(archive, at);) {
    const std::string name = archive.substr(at, 100).c_str();
    const std::size_t size = std::strtoull(archive.substr(at + 124, 12).c_str(), nullptr, 8);
    at += block;
    if (size > archive.size() - at) break;
    files[name] = archive.substr(at, size);
    at += (size + block - 1) / block * block;
  }
  return files;
}

// The files below a folder.
inline Files files_of(const std::string& folder) {
  namespace fs = std::filesystem;
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[fs::relative(entry.path(), folder)].assign(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

// A folder for a bundle, in the one for temporary files, that lives as long as this object.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / "rexit-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  explicit Folder(const Files& files) : Folder() { replace(files); }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const noexcept { return path_; }
  // Holds these files from now on. A file that changes is a new one: an open bundle may have the old one mapped. What cannot be
  // written, such as a file in the place of a folder, is left out.
  void replace(const Files& files) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    for (const auto& [name, contents] : files_)
      if (files.count(name) == 0) fs::remove(fs::path(path_) / name, ignored);
    for (const auto& [name, contents] : files) {
      const auto before = files_.find(name);
      if (before != files_.end() && before->second == contents) continue;
      const fs::path file = fs::path(path_) / name;
      fs::create_directories(file.parent_path(), ignored);
      fs::remove(file, ignored);
      std::ofstream(file, std::ios::binary) << contents;
    }
    files_ = files;
  }

 private:
  std::string path_;
  Files files_;  // what it holds
};

}  // namespace tar

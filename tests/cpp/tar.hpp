// Bundles as tar archives in the format ustar.
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

// Sets the checksum of a header.
inline void seal(char* header) {
  std::memset(header + 148, ' ', 8);
  unsigned sum = 0;
  for (std::size_t i = 0; i < block; ++i) sum += static_cast<unsigned char>(header[i]);
  std::snprintf(header + 148, 8, "%06o", sum);
}

inline std::string member(const std::string& name, const std::string& contents, char type = '0') {
  std::string text(block, '\0');
  const std::size_t slash = name.size() > 100 ? name.find('/', name.size() - 101) : std::string::npos;
  if (slash == std::string::npos) {
    text.replace(0, name.size(), name);
  } else {  // the name's beginning is its prefix
    text.replace(345, slash, name.substr(0, slash));
    text.replace(0, name.size() - slash - 1, name.substr(slash + 1));
  }
  std::snprintf(text.data() + 124, 12, "%011zo", contents.size());
  text[156] = type;
  std::memcpy(text.data() + 257, "ustar\00000", 8);
  seal(text.data());
  return text + contents + std::string((block - contents.size() % block) % block, '\0');
}

inline const std::string end_mark(2 * block, '\0');

inline std::string pack(const Files& files) {
  std::string archive;
  for (const auto& [name, contents] : files) archive += member(name, contents);
  return archive + end_mark;
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

}  // namespace tar

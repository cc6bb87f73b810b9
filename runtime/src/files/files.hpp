// The `files` lists of manifests: safe relative paths, and sizes as recorded.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>

#include "files/json.hpp"

namespace rexit::core {

struct FileEntry {
  std::size_t bytes;
  std::string sha256;
};

// Path, relative to the manifest's folder, to what is recorded of it.
using FileList = std::map<std::string, FileEntry>;

// Relative, `/` between non-empty parts, none of them `.` or `..`: what may be appended to a folder without leaving it.
void check_relative_path(const std::string& path, const Json& where);

FileList read_file_sizes(const Json& files);

// Every listed file is a plain file of the recorded size, reached through no link; every name in `needed` is listed.
void check_files(const std::string& folder, const FileList& files, std::initializer_list<std::string> needed);

// The path is a folder, and no link to one.
void check_folder(const std::string& path);

// Whether something, of whatever kind, stands at this path.
bool exists(const std::string& path);

}  // namespace rexit::core

// The `files` lists of manifests: safe relative paths with recorded sizes and digests.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>

#include "files/json.hpp"
#include "files/mapped_file.hpp"

namespace rexit::core {

struct FileEntry {
  std::size_t bytes;
  std::string sha256;
};

// By path, relative to the manifest's folder.
using FileList = std::map<std::string, FileEntry>;

// Throws REXIT_CORRUPT unless `path` is relative, with `/` between non-empty components, none of them `.` or `..`. Such a path
// stays inside the folder it is appended to.
void check_relative_path(const std::string& path, const Json& where);

FileList read_file_sizes(const Json& files);

// Throws unless every listed file is a plain file of the recorded size, reached without symbolic links, and `files` lists every
// name in `needed`.
void check_files(const std::string& folder, const FileList& files, std::initializer_list<std::string> needed);

// Throws unless the file has the recorded digest.
void check_digest(const MappedFile& file, const FileEntry& entry);

// Throws unless the path is a folder and not a symbolic link to one.
void check_folder(const std::string& path);

bool exists(const std::string& path);

}  // namespace rexit::core

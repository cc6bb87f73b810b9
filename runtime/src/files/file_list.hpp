// The `files` lists of manifests: safe relative paths with recorded sizes and digests.
#pragma once

#include <initializer_list>
#include <map>
#include <string>

#include "files/folder.hpp"
#include "files/json.hpp"

namespace rexit::core {

struct FileEntry {
  std::size_t bytes;
  std::string sha256;
};

// By path, relative to the manifest's folder.
using FileList = std::map<std::string, FileEntry>;

// What is wrong with a path; null if it is relative, with `/` between non-empty components, none of them `.` or `..`. Such a path
// stays inside the folder it is appended to.
const char* path_error(const std::string& path);

// Throws REXIT_CORRUPT if path_error has one.
void check_relative_path(const std::string& path, const Json& where);

FileList read_file_sizes(const Json& files);

// Throws unless every listed file is in the bundle's folder `folder`, with the recorded size, and `files` lists every name in
// `needed`. `folder`: "" or a path that ends with `/`.
void check_files(const Folder& bundle, const std::string& folder, const FileList& files,
                 std::initializer_list<std::string> needed);

// Throws unless the file has the recorded digest.
void check_digest(const File& file, const FileEntry& entry);

}  // namespace rexit::core

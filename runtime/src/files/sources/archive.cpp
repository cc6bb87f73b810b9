// The format: POSIX.1-1988 ustar. Each file is a header of 512 bytes, then its bytes, padded to 512. Two blocks of zeros end the
// archive; one is enough here.
#include "files/sources/archive.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/status.hpp"
#include "files/file_list.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t block = 512, max_members = std::size_t{1} << 16;

// A text or number in a header.
struct Field {
  std::size_t begin, size;
};
constexpr Field name_field{0, 100}, size_field{124, 12}, checksum_field{148, 8}, magic_field{257, 6}, prefix_field{345, 155};
constexpr std::size_t type_at = 156;

// Up to the first NUL.
std::string text_of(const unsigned char* header, Field field) {
  const auto* text = reinterpret_cast<const char*>(header) + field.begin;
  return {text, ::strnlen(text, field.size)};
}

// Octal digits, with spaces around them. Nullopt for anything else.
std::optional<std::uint64_t> octal_of(const unsigned char* header, Field field) {
  std::string text = text_of(header, field);
  text.erase(0, text.find_first_not_of(' '));
  text.erase(text.find_last_not_of(' ') + 1);
  if (text.empty() || text.find_first_not_of("01234567") != std::string::npos) return std::nullopt;
  std::uint64_t number = 0;  // of at most 12 digits
  for (const char digit : text) number = number * 8 + static_cast<std::uint64_t>(digit - '0');
  return number;
}

// The sum of the header's bytes, with spaces in the checksum's own place.
std::uint64_t checksum_of(const unsigned char* header) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < block; ++i) {
    const bool own = i >= checksum_field.begin && i < checksum_field.begin + checksum_field.size;
    sum += own ? std::uint64_t{' '} : std::uint64_t{header[i]};
  }
  return sum;
}

bool is_ustar(const unsigned char* header) { return std::memcmp(header + magic_field.begin, "ustar", 5) == 0; }

// "./catalog/catalog.json" is "catalog/catalog.json". GNU tar keeps times where ustar has a prefix of the name.
std::string path_of(const unsigned char* header) {
  const std::string prefix = header[magic_field.begin + 5] == '\0' ? text_of(header, prefix_field) : std::string();
  std::string path = (prefix.empty() ? prefix : prefix + "/") + text_of(header, name_field);
  while (path.compare(0, 2, "./") == 0) path.erase(0, 2);
  return path;
}

}  // namespace

Archive::Archive(File whole, std::string path) : Source(whole.path()), whole_(std::move(whole)), path_(std::move(path)) {
  const unsigned char* data = whole_.data();
  const std::size_t size = whole_.size();
  if (size < block || !is_ustar(data))
    fail(REXIT_CORRUPT, name(), ": is not a bundle: expected a folder, or an uncompressed tar archive of one");
  for (std::size_t at = 0;;) {
    if (size - at < block) fail(REXIT_CORRUPT, name(), ": ends after ", size, " bytes without the archive's end (truncated)");
    const unsigned char* header = data + at;
    if (std::all_of(header, header + block, [](unsigned char byte) { return byte == 0; })) return;
    if (!is_ustar(header) || octal_of(header, checksum_field) != checksum_of(header))
      fail(REXIT_CORRUPT, name(), ": the header at byte ", at, " is damaged");
    const std::string member = path_of(header);
    const char type = static_cast<char>(header[type_at]);
    const auto refuse = [&](rexit_status status, const char* reason) { fail(status, name(), ": `", member, "` ", reason); };
    if (type == '1' || type == '2') refuse(REXIT_CORRUPT, "is a link, which a bundle must not contain");
    if (type == 'x' || type == 'g' || type == 'L' || type == 'K')
      refuse(REXIT_UNSUPPORTED, "is an extension of the format; write the archive with `tar --format=ustar`");
    if (type != '0' && type != '\0' && type != '5') refuse(REXIT_CORRUPT, "is not a plain file");
    const std::optional<std::uint64_t> bytes = octal_of(header, size_field);
    if (!bytes) refuse(REXIT_UNSUPPORTED, "has a size that is no octal number: a file of 8 GiB or more");
    const std::size_t available = size - at - block;
    if (*bytes > available)
      fail(REXIT_CORRUPT, name(), ": `", member, "` has ", *bytes, " bytes, the archive only ", available, " more (truncated)");
    const std::size_t padded = (static_cast<std::size_t>(*bytes) + block - 1) / block * block;
    if (padded > available) fail(REXIT_CORRUPT, name(), ": ends within the padding of `", member, "` (truncated)");
    if (type != '5') {
      if (const char* problem = path_error(member)) refuse(REXIT_CORRUPT, problem);
      if (!members_.emplace(member, Member{header + block, static_cast<std::size_t>(*bytes)}).second)
        refuse(REXIT_CORRUPT, "is there twice");
      if (members_.size() > max_members) fail(REXIT_CORRUPT, name(), ": more than ", max_members, " files, the most allowed");
    }
    at += block + padded;
  }
}

const Archive::Member& Archive::find(const std::string& path) const {
  const auto member = members_.find(path);
  if (member == members_.end()) fail(REXIT_NOT_FOUND, where(path), ": is not in the archive");
  return member->second;
}

File Archive::open(const std::string& path) const {
  const Member& member = find(path);
  return whole_.part(where(path), member.data, member.size);
}

void Archive::check_file(const std::string& path, std::size_t bytes) const {
  const std::size_t size = find(path).size;
  if (size != bytes) fail(REXIT_CORRUPT, where(path), ": ", size, " bytes, expected ", bytes, " (truncated or edited)");
}

std::vector<std::string> Archive::folders(const std::string& path) const {
  std::vector<std::string> names;
  const std::string begin = path + "/";
  for (auto member = members_.lower_bound(begin); member != members_.end(); ++member) {
    const std::string& file = member->first;
    if (file.compare(0, begin.size(), begin) != 0) break;
    const std::size_t slash = file.find('/', begin.size());
    if (slash == std::string::npos) continue;
    std::string folder = file.substr(begin.size(), slash - begin.size());
    if (names.empty() || names.back() != folder) names.push_back(std::move(folder));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::shared_ptr<const Source> Archive::replacement() const {
  return path_.empty() || !whole_.is_replaced_at(path_) ? nullptr : open_source(path_);
}

}  // namespace rexit::core

// JSON of bounded size, with errors that say where.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "files/folder.hpp"

namespace rexit::core {

// A parsed value takes up to 40 times the bytes of its text (`{}` in an array), so the number of values bounds memory, not the
// size of the text.
constexpr std::size_t max_json_bytes = std::size_t{16} << 20, max_json_values = std::size_t{1} << 16;
constexpr int max_json_depth = 32;

// nlohmann's parser skips a byte order mark, and whatever is behind a NUL. Returns an error for a text that has one, else "".
std::string unparsed_bytes_error(std::string_view text);

struct JsonFile {
  std::string name;
  nlohmann::json root;
};

// A value inside a JSON file. Every accessor checks type and range, and throws REXIT_CORRUPT with the file and the path to the
// value. A Json must not outlive its JsonDocument.
class Json {
 public:
  Json(const JsonFile* file, const nlohmann::json* value) : file_(file), value_(value) {}

  // "manifest.json files[3] bytes". For messages only: each call searches the document.
  std::string where() const;

  bool has(const char* key) const;  // false also for a key whose value is null
  Json at(const char* key) const;
  std::vector<Json> elements() const;
  std::vector<std::pair<std::string, Json>> members() const;

  bool is_null() const noexcept { return value_->is_null(); }
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  std::size_t size(std::size_t low, std::size_t high) const;
  bool boolean() const;
  float finite_float() const;
  double finite_double() const;
  const std::string& string() const;
  std::vector<std::string> strings() const;

 private:
  std::string seen() const;  // for messages: a scalar as in the file, or what kind of value it is

  const JsonFile* file_;
  const nlohmann::json* value_;
};

class JsonDocument {
 public:
  JsonDocument(const unsigned char* data, std::size_t size, const std::string& name);
  Json root() const noexcept { return {file_.get(), &file_->root}; }

 private:
  std::unique_ptr<JsonFile> file_;  // stays in place when the document is moved
};

// Reads one of rexit's own JSON files: an object with a schema that this version reads, and nothing in `requires`. `command`:
// what writes the file, for messages.
JsonDocument read_json(const File& file, const char* command);

}  // namespace rexit::core

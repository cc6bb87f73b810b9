// Bounded JSON with errors that say where.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rexit::core {

constexpr std::size_t max_json_bytes = std::size_t{16} << 20;
constexpr int max_json_depth = 32;

// A value inside a JSON file. Every reader checks type and range and throws REXIT_CORRUPT with the file and the path to the
// value. A Json must not outlive the document it came from (its root, kept by parse_json's result).
class Json {
 public:
  Json(const nlohmann::json* value, std::string where) : value_(value), where_(std::move(where)) {}

  const std::string& where() const noexcept { return where_; }

  bool has(const char* key) const;  // false also for a key whose value is null
  Json at(const char* key) const;
  std::vector<Json> elements() const;
  std::vector<std::pair<std::string, Json>> members() const;

  bool is_null() const noexcept { return value_->is_null(); }
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  std::size_t size(std::size_t low, std::size_t high) const;
  float finite_float() const;
  const std::string& string() const;
  std::vector<std::string> strings() const;

 private:
  const char* kind() const noexcept { return value_->type_name(); }

  const nlohmann::json* value_;
  std::string where_;
};

// A parsed file: `root` points into it.
class JsonDocument {
 public:
  JsonDocument(const unsigned char* data, std::size_t size, const std::string& name);
  Json root() const { return {value_.get(), name_}; }

 private:
  std::unique_ptr<nlohmann::json> value_;
  std::string name_;
};

// Reads one of rexit's own JSON files: an object with a schema this version knows and nothing unknown in `requires`.
JsonDocument read_json(const std::string& path);

}  // namespace rexit::core

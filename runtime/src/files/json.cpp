// clang-format off
#include "files/older_strtoll.hpp"
// clang-format on

#include "files/json.hpp"

#include <cmath>
#include <unordered_set>

#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {

namespace {
constexpr std::int64_t schema = 3;

// For messages.
std::string shown(const nlohmann::json& scalar) {
  constexpr std::size_t max_bytes = 60;
  const std::string text = scalar.dump(-1, ' ', true);  // ASCII, so that a cut leaves whole characters
  return text.size() <= max_bytes ? text : text.substr(0, max_bytes) + "…";
}

// Parses a text without storing it, and refuses it if its values would take too much memory. nlohmann's parser could do so in a
// callback while it builds the values, but then it searches a whole array at the end of every element.
class BoundsCheck final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit BoundsCheck(const std::string& name) : name_(name) {}

  bool null() override { return count(); }
  bool boolean(bool) override { return count(); }
  bool number_integer(number_integer_t) override { return count(); }
  bool number_unsigned(number_unsigned_t) override { return count(); }
  bool number_float(number_float_t, const string_t&) override { return count(); }
  bool string(string_t&) override { return count(); }
  bool binary(binary_t&) override { return count(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) fail(REXIT_CORRUPT, name_, ": the key ", shown(name), " appears twice in an object");
    return true;
  }
  bool start_object(std::size_t) override { return keys_.emplace_back(), enter(); }
  bool end_object() override { return keys_.pop_back(), leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  // The second parse reports the error.
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  bool count() {
    if (++values_ > max_json_values) fail(REXIT_CORRUPT, name_, ": more than ", max_json_values, " values, the most allowed");
    return true;
  }
  bool enter() {
    if (++depth_ > max_json_depth)
      fail(REXIT_CORRUPT, name_, ": nested more than ", max_json_depth, " levels deep, the most allowed");
    return count();
  }
  bool leave() {
    --depth_;
    return true;
  }

  const std::string& name_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each open object
  std::size_t values_ = 0;
  int depth_ = 0;
};

// Appends the path from `root` to `value` and returns true; returns false if `root` does not contain `value`.
bool append_path(const nlohmann::json& root, const nlohmann::json* value, std::string& path) {
  if (&root == value) return true;
  if (!root.is_structured()) return false;
  const std::size_t length = path.size();
  std::size_t index = 0;
  for (auto child = root.begin(); child != root.end(); ++child, ++index) {
    path += root.is_object() ? " " + child.key() : "[" + std::to_string(index) + "]";
    if (append_path(*child, value, path)) return true;
    path.resize(length);
  }
  return false;
}

}  // namespace

std::string unparsed_bytes_error(std::string_view text) {
  if (text.substr(0, 3) == "\xef\xbb\xbf") return "not valid JSON: it begins with a byte order mark";
  const std::size_t nul = text.find('\0');
  return nul == text.npos ? "" : "not valid JSON: byte " + std::to_string(nul + 1) + " is a NUL";
}

std::string Json::where() const {
  std::string path = file_->name;
  append_path(file_->root, value_, path);
  return path;
}

std::string Json::seen() const { return value_->is_structured() ? std::string("an ") + value_->type_name() : shown(*value_); }

bool Json::has(const char* key) const {
  if (!value_->is_object()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected an object");
  const auto member = value_->find(key);
  return member != value_->end() && !member->is_null();
}

Json Json::at(const char* key) const {
  if (!value_->is_object()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected an object");
  const auto member = value_->find(key);
  if (member == value_->end()) fail(REXIT_CORRUPT, where(), ": `", key, "` is missing");
  return {file_, &*member};
}

std::vector<Json> Json::elements() const {
  if (!value_->is_array()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected an array");
  std::vector<Json> elements;
  elements.reserve(value_->size());
  for (const auto& element : *value_) elements.emplace_back(file_, &element);
  return elements;
}

std::vector<std::pair<std::string, Json>> Json::members() const {
  if (!value_->is_object()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected an object");
  std::vector<std::pair<std::string, Json>> members;
  for (const auto& [key, value] : value_->items()) members.emplace_back(key, Json(file_, &value));
  return members;
}

std::int64_t Json::integer(std::int64_t low, std::int64_t high) const {
  if (!value_->is_number_integer()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected an integer");
  const bool too_large = value_->is_number_unsigned() && value_->get<std::uint64_t>() > INT64_MAX;
  const std::int64_t number = too_large ? INT64_MAX : value_->get<std::int64_t>();
  if (too_large || number < low || number > high) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected ", low, " to ", high);
  return number;
}

std::size_t Json::size(std::size_t low, std::size_t high) const {
  return static_cast<std::size_t>(integer(static_cast<std::int64_t>(low), static_cast<std::int64_t>(high)));
}

bool Json::boolean() const {
  if (!value_->is_boolean()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected true or false");
  return value_->get<bool>();
}

float Json::finite_float() const {
  if (!value_->is_number()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected a number");
  const float number = static_cast<float>(value_->get<double>());
  if (!std::isfinite(number)) fail(REXIT_CORRUPT, where(), ": is too large for a float32");
  return number;
}

double Json::finite_double() const {
  if (!value_->is_number()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected a number");
  const double number = value_->get<double>();
  if (!std::isfinite(number)) fail(REXIT_CORRUPT, where(), ": is not a finite number");
  return number;
}

const std::string& Json::string() const {
  if (!value_->is_string()) fail(REXIT_CORRUPT, where(), ": is ", seen(), ", expected a string");
  return value_->get_ref<const std::string&>();
}

std::vector<std::string> Json::strings() const {
  std::vector<std::string> strings;
  for (const Json& element : elements()) strings.push_back(element.string());
  return strings;
}

JsonDocument::JsonDocument(const unsigned char* data, std::size_t size, const std::string& name) {
  if (size > max_json_bytes) fail(REXIT_CORRUPT, name, ": ", size, " bytes of JSON, expected at most ", max_json_bytes);
  if (const std::string error = unparsed_bytes_error({reinterpret_cast<const char*>(data), size}); !error.empty())
    fail(REXIT_CORRUPT, name, ": ", error);
  const platform::CLocale c_locale;  // nlohmann's lexer reads numbers with strtod
  BoundsCheck check(name);
  nlohmann::json::sax_parse(data, data + size, &check);
  try {
    file_ = std::make_unique<JsonFile>(JsonFile{name, nlohmann::json::parse(data, data + size)});
  } catch (const nlohmann::json::exception& error) {
    fail(REXIT_CORRUPT, name, ": not valid JSON: ", error.what());
  }
}

JsonDocument read_json(const File& file, const char* command) {
  const std::string& path = file.path();
  JsonDocument document(file.data(), file.size(), path);
  const Json root = document.root();
  const std::int64_t version = root.at("schema").integer(0, INT64_MAX);
  if (version < schema)
    fail(REXIT_UNSUPPORTED, path, ": schema ", version, ", this version reads schema ", schema, ": make it again with `", command,
         "`");
  if (version > schema) fail(REXIT_UNSUPPORTED, path, ": schema ", version, ", this version reads schema ", schema);
  if (root.has("requires"))
    for (const std::string& name : root.at("requires").strings())
      fail(REXIT_UNSUPPORTED, path, ": requires `", name, "`, which this version does not know");
  return document;
}

}  // namespace rexit::core

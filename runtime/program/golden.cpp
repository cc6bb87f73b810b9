#include "golden.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "failure.hpp"

namespace rexit::program {

namespace {

using nlohmann::json;

// A safetensors file: the header's size in 8 bytes, the header as JSON, the arrays. Little-endian, as the machines that rexit
// runs on.
class Tensors {
 public:
  explicit Tensors(std::string bytes) : bytes_(std::move(bytes)) {
    std::uint64_t size = 0;
    require(bytes_.size() >= sizeof size);
    std::memcpy(&size, bytes_.data(), sizeof size);
    require(size <= bytes_.size() - sizeof size);
    data_ = sizeof size + static_cast<std::size_t>(size);
    header_ = json::parse(bytes_.begin() + sizeof size, bytes_.begin() + static_cast<std::ptrdiff_t>(data_));
  }

  template <class T>
  std::vector<T> array(const char* name, const char* type) const {
    const json& entry = header_.at(name);
    require(entry.at("dtype") == type);
    const auto begin = entry.at("data_offsets").at(0).get<std::size_t>(), end = entry.at("data_offsets").at(1).get<std::size_t>();
    require(begin <= end && end <= bytes_.size() - data_ && (end - begin) % sizeof(T) == 0);
    std::vector<T> values((end - begin) / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes_.data() + data_ + begin, end - begin);
    return values;
  }
  bool has(const char* name) const { return header_.contains(name); }
  // Offsets of `count` parts of an array of `size` entries: [count + 1].
  std::vector<std::int64_t> offsets(const char* name, std::size_t count, std::size_t size) const {
    auto offsets = array<std::int64_t>(name, "I64");
    require(offsets.size() == count + 1 && offsets.front() == 0 && offsets.back() == static_cast<std::int64_t>(size) &&
            std::is_sorted(offsets.begin(), offsets.end()));
    return offsets;
  }

  static void require(bool condition) {
    if (!condition) throw std::invalid_argument("its arrays do not fit together");
  }

 private:
  std::string bytes_;
  std::size_t data_ = 0;
  json header_;
};

// The values behind the numbers of a slate's contexts, in the order of catalog.json. A number below 0 has none.
std::vector<std::pair<std::string, ContextValue>> context_of(const json& contexts, const std::int32_t* numbers) {
  std::vector<std::pair<std::string, ContextValue>> values;
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    const json& context = contexts[i];
    if (numbers[i] < 0) continue;
    const auto number = static_cast<std::size_t>(numbers[i]);
    if (context.contains("values"))
      values.emplace_back(context.at("name").get<std::string>(), context["values"].at(number).get<std::string>());
    else
      values.emplace_back(context.at("name").get<std::string>(), context.at("bins").at(number).get<double>());
  }
  return values;
}

// The names of the prompt program's request texts, in the order of its ops.
std::vector<std::string> text_names(const json& prompt) {
  std::vector<std::string> names;
  for (const char* part : {"prefix", "candidate"})
    for (const json& op : prompt.at(part)) {
      if (op.at("op") != "request") continue;
      const auto name = op.at("name").get<std::string>();
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  return names;
}

// Returns the prompt program, `prompt` of catalog.json.
using ReadProgram = std::function<json()>;

// `width`: log-odds of a candidate.
std::vector<GoldenSlate> read_slates(std::string bytes, std::size_t width, const ReadProgram& read_program) {
  const Tensors file(std::move(bytes));
  const bool has_catalog = file.has("user");
  std::vector<std::int32_t> users, items;
  std::vector<std::int64_t> as_of;
  if (has_catalog) {
    users = file.array<std::int32_t>("user", "I32");
    items = file.array<std::int32_t>("item", "I32");
    as_of = file.array<std::int64_t>("as_of", "I64");
  }
  const auto prefix = file.array<std::int32_t>("prefix_tokens", "I32");
  const auto candidate = file.array<std::int32_t>("candidate_tokens", "I32");
  const auto log_odds = file.array<float>("log_odds", "F32");
  if (!has_catalog) {
    Tensors::require(log_odds.size() % width == 0);
    const auto sizes = file.array<std::int64_t>("slate_offsets", "I64");
    Tensors::require(!sizes.empty());
    users.assign(sizes.size() - 1, 0);
    as_of.assign(sizes.size() - 1, 0);
    items.assign(log_odds.size() / width, 0);
  }
  const auto slates = file.offsets("slate_offsets", users.size(), items.size());
  const auto prefixes = file.offsets("prefix_offsets", users.size(), prefix.size());
  const auto candidates = file.offsets("candidate_offsets", items.size(), candidate.size());
  const json program = has_catalog ? read_program() : json::object();
  const json contexts = program.value("context", json::array());
  const std::vector<std::string> names = has_catalog ? text_names(program) : std::vector<std::string>();
  const auto texts = names.empty() ? std::vector<std::int32_t>{} : file.array<std::int32_t>("request_tokens", "I32");
  const auto text_offsets =
      names.empty() ? std::vector<std::int64_t>{} : file.offsets("request_offsets", users.size() * names.size(), texts.size());
  const auto context = contexts.empty() ? std::vector<std::int32_t>{} : file.array<std::int32_t>("context", "I32");
  Tensors::require(as_of.size() == users.size() && log_odds.size() == items.size() * width &&
                   context.size() == users.size() * contexts.size());

  std::vector<GoldenSlate> golden_slates;
  for (std::size_t g = 0; g < users.size(); ++g) {
    const auto first = slates[g], last = slates[g + 1];
    GoldenSlate slate{users[g], {items.begin() + first, items.begin() + last}, as_of[g], {}, {}, {}, {0}, {}};
    if (!has_catalog) std::iota(slate.items.begin(), slate.items.end(), 0);
    if (!contexts.empty()) slate.context = context_of(contexts, context.data() + g * contexts.size());
    for (std::size_t t = 0; t < names.size(); ++t) {
      const std::int64_t begin = text_offsets[g * names.size() + t], end = text_offsets[g * names.size() + t + 1];
      if (begin != end) slate.texts.emplace_back(names[t], std::vector<std::int32_t>(texts.begin() + begin, texts.begin() + end));
    }
    slate.tokens.assign(prefix.begin() + prefixes[g], prefix.begin() + prefixes[g + 1]);
    slate.offsets.push_back(slate.tokens.size());
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      slate.tokens.insert(slate.tokens.end(), candidate.begin() + candidates[i], candidate.begin() + candidates[i + 1]);
      slate.offsets.push_back(slate.tokens.size());
    }
    const auto entries = static_cast<std::int64_t>(width);
    slate.log_odds.assign(log_odds.begin() + first * entries, log_odds.begin() + last * entries);
    golden_slates.push_back(std::move(slate));
  }
  return golden_slates;
}

}  // namespace

Golden read_golden(const Bundle& bundle) {
  const rexit_bundle_info info = bundle.info();
  const std::string variant = info.variant, folder = "variants/" + variant;
  std::string path = folder + "/variant.json";
  try {
    const auto tolerance = json::parse(bundle.read_file(path)).at("parity").at("tolerance").get<float>();
    path = "manifest.json";
    const json refreshed = json::parse(bundle.read_file(path)).value("catalog", json());
    const std::string catalog = refreshed.is_null() ? "catalog" : refreshed.at("folder").get<std::string>();
    path = refreshed.is_null() ? folder + "/golden.safetensors" : catalog + "/golden/" + variant + ".safetensors";
    const auto read_program = [&] { return json::parse(bundle.read_file(catalog + "/catalog.json")).at("prompt"); };
    return {tolerance, read_slates(bundle.read_file(path), info.exits * info.objectives, read_program)};
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Failure(path + ": not golden samples: " + error.what(), bad_bundle);
  }
}

}  // namespace rexit::program

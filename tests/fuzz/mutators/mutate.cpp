#include "mutate.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace rexit::fuzz {
namespace {

using nlohmann::json;

const json& edges() {
  static const json values = json::parse(R"([
    0, 1, -1, 2, 7, 255, 65536, 1048576, 16777216, 2147483647, 2147483648, 4294967296, 9007199254740993, 9223372036854775807,
    18446744073709551615, -9223372036854775808, 0.5, -0.0, 1e38, 1e39, 1e308, true, false, null, "", "float16", "..", "a\nb",
    "\u0000", [], {}, [[]]])");
  return values;
}

void collect(json& value, std::vector<json*>& all) {
  all.push_back(&value);
  if (value.is_structured())
    for (json& part : value) collect(part, all);
}

void change(json& value, const std::vector<json*>& all, Random& random) {
  switch (below(random, 8)) {
    case 0:
    case 1:
      value = edges()[below(random, edges().size())];
      return;
    case 2: {
      const json other = *all[below(random, all.size())];
      value = other;
      return;
    }
    case 3:
      if (value.is_structured() && !value.empty()) {
        auto at = value.begin();
        std::advance(at, below(random, value.size()));
        value.erase(at);
        return;
      }
      [[fallthrough]];
    case 4:
      if (value.is_array() && value.size() < 64) {
        const json other =
            value.empty() || below(random, 4) == 0 ? *all[below(random, all.size())] : value[below(random, value.size())];
        value.insert(value.begin() + static_cast<std::ptrdiff_t>(below(random, value.size() + 1)), other);
        return;
      }
      [[fallthrough]];
    default:
      if (value.is_number_integer()) {
        const auto by = static_cast<std::uint64_t>(below(random, 5)) - 2;
        value = static_cast<std::int64_t>(value.get<std::uint64_t>() + by);
      } else if (value.is_string()) {
        std::string text = value.get<std::string>();
        mutate_bytes(text, random);
        value = text;
      } else if (value.is_number_float()) {
        value = value.get<double>() * (static_cast<double>(below(random, 400)) - 200) / 10;
      }
  }
}

}  // namespace

void mutate_bytes(std::string& bytes, Random& random) {
  const std::size_t size = bytes.size(), most = size + 1 + below(random, 32);
  bytes.resize(most);
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(bytes.data()), size, most));
}

void mutate_json(std::string& text, Random& random) {
  json root = json::parse(text, nullptr, false);
  if (root.is_discarded() || below(random, 12) == 0) return mutate_bytes(text, random);
  const std::size_t changes = 1 + below(random, 2);
  for (std::size_t i = 0; i < changes; ++i) {
    std::vector<json*> all;
    collect(root, all);
    if (all.size() > 4096) return mutate_bytes(text, random);
    change(*all[below(random, all.size())], all, random);
  }
  text = root.dump(-1, ' ', false, json::error_handler_t::ignore);
}

void mutate_safetensors(std::string& bytes, Random& random) {
  std::uint64_t length = 0;
  for (std::size_t i = 8; bytes.size() >= 8 && i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (bytes.size() < 8 || length > bytes.size() - 8 || below(random, 16) == 0) return mutate_bytes(bytes, random);
  std::string header = bytes.substr(8, length), data = bytes.substr(8 + length);
  const json root = json::parse(header, nullptr, false);
  if (!root.is_object() || root.empty() || below(random, 3) == 0) {
    mutate_json(header, random);
    header.resize((header.size() + 7) / 8 * 8, ' ');
    length = header.size();
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> 8 * i & 0xff);
    bytes = bytes.substr(0, 8) + header + data;
    return;
  }
  // A number of a tensor, with the tensor's width.
  auto at = root.begin();
  std::advance(at, below(random, root.size()));
  if (!at->is_object() || !at->contains("data_offsets") || !at->contains("dtype")) return mutate_bytes(bytes, random);
  const json &offsets = (*at)["data_offsets"], &dtype = (*at)["dtype"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
    return mutate_bytes(bytes, random);
  const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
  const std::size_t width = dtype == "I64" ? 8 : dtype == "I32" || dtype == "F32" ? 4 : dtype == "F16" ? 2 : 1;
  if (end > data.size() || begin >= end || (end - begin) / width == 0) return mutate_bytes(bytes, random);
  const std::size_t count = (end - begin) / width;
  const auto place = [&] { return data.data() + begin + below(random, count) * width; };
  char* to = place();
  std::uint64_t value = 0;
  std::memcpy(&value, to, width);
  switch (below(random, 5)) {
    case 0:
      std::memcpy(&value, place(), width);
      break;
    case 1:
      value += below(random, 5) - 2;
      break;
    case 2: {
      constexpr std::uint64_t numbers[] = {0,    1, 2, 19, 20, 0x7c00, INT32_MAX, UINT32_MAX, INT64_MAX, std::uint64_t{1} << 63,
                                           ~0ull};
      value = numbers[below(random, std::size(numbers))];
      break;
    }
    case 3:
      value ^= std::uint64_t{1} << below(random, 8 * width);
      break;
    default:
      value = below(random, count + 1);
  }
  std::memcpy(to, &value, width);
  bytes = bytes.substr(0, 8 + length) + data;
}

}  // namespace rexit::fuzz

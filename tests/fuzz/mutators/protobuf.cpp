// Any protobuf message, by its wire format alone: https://protobuf.dev/programming-guides/encoding/
#include <algorithm>
#include <optional>
#include <vector>

#include "mutate.hpp"

namespace rexit::fuzz {
namespace {

enum Wire : std::uint64_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct Field {
  std::uint64_t key = 0;    // its number and its wire type
  std::uint64_t value = 0;  // of a varint
  std::string payload;      // of all others

  std::uint64_t wire() const { return key & 7; }
};

bool read_varint(const std::string& message, std::size_t& at, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && at < message.size(); shift += 7) {
    const auto byte = static_cast<unsigned char>(message[at++]);
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if ((byte & 0x80u) == 0) return true;
  }
  return false;
}

void write_varint(std::string& message, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) message += static_cast<char>(value | 0x80);
  message += static_cast<char>(value);
}

// Nullopt if it is no message, or empty.
std::optional<std::vector<Field>> read(const std::string& message) {
  std::vector<Field> fields;
  for (std::size_t at = 0; at < message.size();) {
    Field field;
    if (!read_varint(message, at, field.key) || field.key >> 3 == 0 || field.key >> 32 != 0) return std::nullopt;
    std::uint64_t size = field.wire() == fixed64 ? 8 : 4;
    if (field.wire() == varint) {
      if (!read_varint(message, at, field.value)) return std::nullopt;
    } else {
      if (field.wire() == bytes ? !read_varint(message, at, size) : field.wire() != fixed64 && field.wire() != fixed32)
        return std::nullopt;
      if (size > message.size() - at) return std::nullopt;
      field.payload = message.substr(at, size);
      at += size;
    }
    fields.push_back(std::move(field));
  }
  if (fields.empty()) return std::nullopt;
  return fields;
}

std::string write(const std::vector<Field>& fields) {
  std::string message;
  for (const Field& field : fields) {
    write_varint(message, field.key);
    if (field.wire() == varint) {
      write_varint(message, field.value);
    } else {
      if (field.wire() == bytes) write_varint(message, field.payload.size());
      message += field.payload;
    }
  }
  return message;
}

// Fields that may be a name of a tensor, an operator, an attribute or a type.
void collect(const std::vector<Field>& fields, std::vector<std::string>& names) {
  for (const Field& field : fields) {
    if (field.wire() != bytes) continue;
    if (const auto inner = read(field.payload)) collect(*inner, names);
    if (field.payload.size() <= 32 && std::all_of(field.payload.begin(), field.payload.end(), [](char c) { return c >= ' '; }))
      names.push_back(field.payload);
  }
}

// Picks a field by its size, or uniformly: a graph is most of a model, and a node is little of a graph.
std::size_t choose(const std::vector<Field>& fields, Random& random) {
  if (below(random, 2) == 0) return below(random, fields.size());
  std::size_t total = 0;
  for (const Field& field : fields) total += field.payload.size() + 1;
  std::size_t place = below(random, total), i = 0;
  for (; place > fields[i].payload.size(); ++i) place -= fields[i].payload.size() + 1;
  return i;
}

void change(std::vector<Field>& fields, const std::vector<std::string>& names, Random& random) {
  const std::size_t i = choose(fields, random);
  Field& field = fields[i];
  const bool whole = below(random, 4) == 0;
  if (!whole && field.wire() == bytes) {
    auto inner = read(field.payload);
    if (inner && below(random, 16) != 0) {
      change(*inner, names, random);
      field.payload = write(*inner);
    } else if (!names.empty() && below(random, 2) == 0) {
      field.payload = names[below(random, names.size())];
    } else {
      mutate_bytes(field.payload, random);
    }
  } else if (!whole && field.wire() == varint) {
    constexpr std::uint64_t numbers[] = {0, 1, 2, 7, 10, 16, 64, 255, 65536, 0x7fffffff, 0x80000000, 0x7fffffffffffffff, ~0ull};
    field.value = below(random, 2) == 0 ? field.value + below(random, 5) - 2 : numbers[below(random, std::size(numbers))];
  } else if (!whole) {
    field.payload[below(random, field.payload.size())] ^= static_cast<char>(1u << below(random, 8));
  } else {
    const auto at = [&](std::size_t n) { return fields.begin() + static_cast<std::ptrdiff_t>(n); };
    const std::size_t other = below(random, fields.size());
    switch (below(random, 3)) {
      case 0:
        fields.erase(at(i));
        break;
      case 1:
        fields.insert(at(other), Field(field));
        break;
      default:
        std::swap(fields[i], fields[other]);
    }
  }
}

}  // namespace

void mutate_protobuf(std::string& bytes, Random& random) {
  auto fields = read(bytes);
  if (!fields || below(random, 32) == 0) return mutate_bytes(bytes, random);
  std::vector<std::string> names;
  collect(*fields, names);
  change(*fields, names, random);
  bytes = write(*fields);
}

}  // namespace rexit::fuzz

// Structs of the C ABI. A caller built with another version of rexit.h may pass a shorter or a longer struct.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "base/status.hpp"

namespace rexit::core {

template <class T>
const T* required(const T* pointer, const char* name) {
  if (pointer == nullptr) fail(REXIT_INVALID_ARGUMENT, name, " is NULL");
  return pointer;
}

template <class T>
T* required(T* pointer, const char* name) {
  if (pointer == nullptr) fail(REXIT_INVALID_ARGUMENT, name, " is NULL");
  return pointer;
}

// Checks struct_size. An impossible size means uninitialised memory. A size that ends inside a pointer would pass half of it.
template <class T>
void check_size(const T* from, const char* name) {
  constexpr std::size_t max_size = 4096;
  static_assert(sizeof(T) <= max_size && alignof(T) >= sizeof(void*));
  if (from->struct_size < sizeof from->struct_size || from->struct_size > max_size || from->struct_size % alignof(T) != 0)
    fail(REXIT_INVALID_ARGUMENT, name, ": struct_size is ", from->struct_size, ", expected sizeof the struct, ", sizeof(T));
}

// Copies a caller's struct. Fields beyond its size are zero, their default. Throws if fields beyond ours are set: the caller asks
// for a feature of a newer library.
template <class T>
T read_struct(const T* from, const char* name) {
  check_size(required(from, name), name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (std::size_t i = sizeof(T); i < from->struct_size; ++i)
    if (bytes[i] != 0)
      fail(REXIT_INVALID_ARGUMENT, name, ": byte ", i, " of ", from->struct_size, " is set, but this library knows only ",
           sizeof(T), " bytes: it is older than the header that the caller was built with");
  T value{};
  std::memcpy(&value, from, std::min(from->struct_size, sizeof(T)));
  return value;
}

// Fills a caller's struct up to its size. Keeps its struct_size; bytes beyond ours become zero. Call check_size() first.
template <class T>
void write_struct(T value, T* to) {
  const std::size_t size = to->struct_size, known = std::min(size, sizeof(T));
  value.struct_size = size;
  std::memcpy(to, &value, known);
  std::memset(reinterpret_cast<unsigned char*>(to) + known, 0, size - known);
}

// Checks the entry size of a caller's array. `first_size`: in the first version of rexit.h.
template <class T>
void check_entry_size(std::size_t size, std::size_t first_size, const char* name) {
  if (size < first_size || size > 4096 || size % alignof(T) != 0)
    fail(REXIT_INVALID_ARGUMENT, name, " is ", size, ", expected the sizeof, ", sizeof(T));
}

// A field of a request, or an element of it, in a message.
struct Position {
  const char* list;
  std::optional<std::size_t> index;
  std::string text() const { return index ? std::string(list) + "[" + std::to_string(*index) + "]" : list; }
};

// Copies an entry of a caller's array, as read_struct copies a struct.
template <class T>
T read_entry(const T* first, std::size_t index, std::size_t size, const Position& where) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(first) + index * size;
  for (std::size_t i = sizeof(T); i < size; ++i)
    if (bytes[i] != 0)
      fail(REXIT_INVALID_ARGUMENT, where.text(), ": byte ", i, " of ", size, " is set, but this library knows only ", sizeof(T),
           " bytes: it is older than the header that the caller was built with");
  T value{};
  std::memcpy(&value, bytes, std::min(size, sizeof(T)));
  return value;
}

// Fills an entry of a caller's array, as write_struct fills a struct.
template <class T>
void write_entry(const T& value, T* first, std::size_t index, std::size_t size) {
  auto* to = reinterpret_cast<unsigned char*>(first) + index * size;
  const std::size_t known = std::min(size, sizeof(T));
  std::memcpy(to, &value, known);
  std::memset(to + known, 0, size - known);
}

}  // namespace rexit::core

// Structs of the C ABI. A caller built with another version of rexit.h may pass a shorter or a longer struct.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "base/status.hpp"

namespace rexit::core {

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

// A struct or a field of a request, or an element of it, in a message.
struct Position {
  const char* list;
  std::optional<std::size_t> index;
  std::string text() const { return index ? std::string(list) + "[" + std::to_string(*index) + "]" : list; }
};

// Copies `size` bytes of a caller. Fields beyond them are zero, their default. Throws if fields beyond ours are set: the caller
// asks for a feature of a newer library.
template <class T>
T read_known(const void* from, std::size_t size, const Position& where) {
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (std::size_t i = sizeof(T); i < size; ++i)
    if (bytes[i] != 0)
      fail(REXIT_INVALID_ARGUMENT, where.text(), ": byte ", i, " of ", size, " is set, but this library knows only ", sizeof(T),
           " bytes: it is older than the header that the caller was built with");
  T value{};
  std::memcpy(&value, bytes, std::min(size, sizeof(T)));
  return value;
}

// Fills `size` bytes of a caller. Those beyond ours become zero.
template <class T>
void write_known(const T& value, void* to, std::size_t size) {
  const std::size_t known = std::min(size, sizeof(T));
  std::memcpy(to, &value, known);
  std::memset(static_cast<unsigned char*>(to) + known, 0, size - known);
}

template <class T>
T read_struct(const T* from, const char* name) {
  check_size(required(from, name), name);
  return read_known<T>(from, from->struct_size, {name, std::nullopt});
}

// Keeps the caller's struct_size. Call check_size() first.
template <class T>
void write_struct(T value, T* to) {
  value.struct_size = to->struct_size;
  write_known(value, to, value.struct_size);
}

// Checks the entry size of a caller's array. `first_size`: in the first version of rexit.h.
template <class T>
void check_entry_size(std::size_t size, std::size_t first_size, const char* name) {
  if (size < first_size || size > 4096 || size % alignof(T) != 0)
    fail(REXIT_INVALID_ARGUMENT, name, " is ", size, ", expected the sizeof, ", sizeof(T));
}

// An entry of a caller's array, whose entries have `size` bytes.
template <class T>
T read_entry(const T* first, std::size_t index, std::size_t size, const Position& where) {
  return read_known<T>(reinterpret_cast<const unsigned char*>(first) + index * size, size, where);
}

template <class T>
void write_entry(const T& value, T* first, std::size_t index, std::size_t size) {
  write_known(value, reinterpret_cast<unsigned char*>(first) + index * size, size);
}

}  // namespace rexit::core

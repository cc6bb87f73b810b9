// Structs of the C ABI, which callers built with another version may know shorter or longer.
#pragma once

#include <algorithm>
#include <cstring>

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

// Checks struct_size. One that no version will ever have is memory that nobody set.
template <class T>
void check_size(const T* from, const char* name) {
  constexpr std::size_t most = 4096;
  static_assert(sizeof(T) <= most);
  if (from->struct_size < sizeof from->struct_size || from->struct_size > most)
    fail(REXIT_INVALID_ARGUMENT, name, ": struct_size is ", from->struct_size, ", expected sizeof the struct, ", sizeof(T));
}

// A caller's struct; fields beyond its size are zero, their default. Fields beyond ours mean something that we cannot do.
template <class T>
T read_struct(const T* from, const char* name) {
  check_size(required(from, name), name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (std::size_t i = sizeof(T); i < from->struct_size; ++i)
    if (bytes[i] != 0)
      fail(REXIT_INVALID_ARGUMENT, name, ": byte ", i, " of ", from->struct_size, " is set, this library knows ", sizeof(T),
           ": it is older than the header the caller was built with");
  T value{};
  std::memcpy(&value, from, std::min(from->struct_size, sizeof(T)));
  return value;
}

// Fills a caller's struct, checked by check_size, as far as it reaches; its struct_size stays, and what we do not know is zero.
template <class T>
void write_struct(T value, T* to) {
  const std::size_t size = to->struct_size, known = std::min(size, sizeof(T));
  value.struct_size = size;
  std::memcpy(to, &value, known);
  std::memset(reinterpret_cast<unsigned char*>(to) + known, 0, size - known);
}

}  // namespace rexit::core

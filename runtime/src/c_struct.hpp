// Structs of the C ABI, which callers built with another version may know shorter or longer.
#pragma once

#include <algorithm>
#include <cstring>

#include "status.hpp"

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

template <class T>
std::size_t known_size(const T* from, const char* name) {
  if (from->struct_size < sizeof from->struct_size)
    fail(REXIT_INVALID_ARGUMENT, name, ": struct_size is ", from->struct_size, ", expected sizeof the struct, ", sizeof(T));
  return std::min(from->struct_size, sizeof(T));
}

// A caller's struct; fields beyond its size are zero, their default.
template <class T>
T read_struct(const T* from, const char* name) {
  T value{};
  std::memcpy(&value, from, known_size(required(from, name), name));
  return value;
}

// Fills a caller's struct as far as it reaches; its struct_size stays.
template <class T>
void write_struct(T value, T* to, std::size_t size) {
  value.struct_size = to->struct_size;
  std::memcpy(to, &value, size);
}

}  // namespace rexit::core

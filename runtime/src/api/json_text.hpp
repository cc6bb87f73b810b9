// JSON text, written by hand: a tree of values would take longer than all the rest of an answer.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>

namespace rexit::core {

// Bools, integers, and floating-point numbers, which are finite, as the shortest text that reads as the same double.
template <class Value>
void append_value(Value value, std::string& out) {
  if constexpr (std::is_same_v<Value, bool>) {
    out += value ? "true" : "false";
  } else {
    using AsNumber = std::conditional_t<std::is_floating_point_v<Value>, double, Value>;
    char text[32];
    out.append(text, std::to_chars(text, text + sizeof text, static_cast<AsNumber>(value)).ptr);
  }
}

// A string of valid UTF-8.
inline void append_string(std::string_view text, std::string& out) {
  constexpr char hexadecimal[] = "0123456789abcdef";
  out += '"';
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte < 0x20) {
      ((out += "\\u00") += hexadecimal[byte >> 4]) += hexadecimal[byte & 15];
      continue;
    }
    if (character == '"' || character == '\\') out += '\\';
    out += character;
  }
  out += '"';
}

}  // namespace rexit::core

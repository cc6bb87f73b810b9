// A safetensors file: named arrays. A look-up checks dtype and shape.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "files/folder.hpp"

namespace rexit::core {

// A read-only view of an array. The memory must outlive the view.
template <class T>
struct Array {
  const T* data = nullptr;
  std::size_t size = 0;

  const T& operator[](std::size_t i) const noexcept { return data[i]; }
  const T* begin() const noexcept { return data; }
  const T* end() const noexcept { return data + size; }
};

// The bits of an IEEE half; see half.hpp.
enum class Half : std::uint16_t {};

class Safetensors {
 public:
  explicit Safetensors(File file);

  const std::string& path() const noexcept { return file_.path(); }
  std::size_t bytes() const noexcept { return file_.size(); }
  void check_unchanged() const { file_.check_unchanged(); }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  std::vector<std::string> names() const;
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  const unsigned char* data() const noexcept { return file_.data(); }  // the whole file, [bytes()]

  // The tensor `name`. Throws REXIT_CORRUPT unless it has T's dtype and this shape; nullopt is any size. *this must outlive the
  // view.
  template <class T>
  Array<T> array(const std::string& name, const std::vector<std::optional<std::size_t>>& shape) const;

 private:
  struct Tensor {
    std::string dtype;
    std::vector<std::size_t> shape;
    std::size_t begin, bytes;
  };

  const Tensor& find(const std::string& name, const char* dtype, const std::vector<std::optional<std::size_t>>& shape) const;
  [[noreturn]] void fail_misaligned(const std::string& name) const;

  File file_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

template <class T>
constexpr const char* safetensors_dtype() {
  if constexpr (std::is_same_v<T, std::int64_t>) return "I64";
  if constexpr (std::is_same_v<T, std::int32_t>) return "I32";
  if constexpr (std::is_same_v<T, std::uint8_t>) return "U8";
  if constexpr (std::is_same_v<T, float>) return "F32";
  if constexpr (std::is_same_v<T, Half>) return "F16";
}

template <class T>
Array<T> Safetensors::array(const std::string& name, const std::vector<std::optional<std::size_t>>& shape) const {
  const Tensor& tensor = find(name, safetensors_dtype<T>(), shape);
  const unsigned char* data = file_.data() + tensor.begin;
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0) fail_misaligned(name);
  return {reinterpret_cast<const T*>(data), tensor.bytes / sizeof(T)};
}

}  // namespace rexit::core

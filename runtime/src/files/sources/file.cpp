#include "files/sources/file.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace rexit::core {

namespace {

std::shared_ptr<unsigned char> make_aligned(std::size_t bytes) {
  constexpr auto alignment = static_cast<std::align_val_t>(File::alignment);
  auto* memory = static_cast<unsigned char*>(::operator new(std::max<std::size_t>(bytes, 1), alignment));
  return {memory, [](unsigned char* data) { ::operator delete(data, alignment); }};
}

}  // namespace

File::File(const std::string& path, platform::Links links) : File(std::make_shared<const MappedFile>(path, links)) {}

File::File(const std::string& folder, const std::string& path) : File(std::make_shared<const MappedFile>(folder, path)) {}

File::File(std::shared_ptr<const MappedFile> mapping)
    : path_(mapping->path()), mapping_(std::move(mapping)), data_(mapping_->data()), size_(mapping_->size()) {}

File::File(std::string path, const unsigned char* data, std::size_t size) : path_(std::move(path)), data_(data), size_(size) {}

File File::part(std::string path, const unsigned char* data, std::size_t size) const {
  File part(*this);
  part.path_ = std::move(path);
  part.data_ = data;
  part.size_ = size;
  return part;
}

File File::aligned() && {
  if (reinterpret_cast<std::uintptr_t>(data_) % alignment != 0) {
    const std::shared_ptr<unsigned char> copy = make_aligned(size_);
    if (size_ != 0) std::memcpy(copy.get(), data_, size_);
    copy_ = copy;
    data_ = copy.get();
  }
  return std::move(*this);
}

}  // namespace rexit::core

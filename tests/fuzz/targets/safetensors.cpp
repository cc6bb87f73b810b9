// Any bytes as a safetensors file: reads every element of every tensor, with every dtype.
#include "files/safetensors.hpp"

#include "target.hpp"

namespace {

using rexit::core::Safetensors;
using rexit::fuzz::refused;

template <class T>
std::size_t read(const Safetensors& file, const std::string& name) {
  std::size_t sum = 0;
  for (std::size_t rank = 0; rank < 4; ++rank)
    refused([&] {
      for (const T& value : file.array<T>(name, std::vector<std::optional<std::size_t>>(rank)))
        sum += *reinterpret_cast<const unsigned char*>(&value);
    });
  refused([&] { file.array<T>(name, {3, std::nullopt}); });
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static rexit::fuzz::Folder folder;
  const std::string path = folder.put("input", data, size);
  refused([&] {
    const Safetensors file{rexit::core::File(path)};
    volatile std::size_t sum = file.metadata().size();
    for (const std::string& name : file.names())
      sum = sum + read<std::int64_t>(file, name) + read<std::int32_t>(file, name) + read<std::uint8_t>(file, name) +
            read<float>(file, name) + read<rexit::core::Half>(file, name);
  });
  return 0;
}

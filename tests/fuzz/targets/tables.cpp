// A catalog's tables by themselves: the metadata say which `table` it is and how many rows it has.
#include "bundle/catalog.hpp"
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::core;
  static rexit::fuzz::Folder folder;
  const std::string path = folder.put("input", data, size);
  rexit::fuzz::refused([&] {
    std::string kind, table;
    std::size_t count = 0, interactions = 0, dim = 1;
    {
      const Safetensors file(path);
      for (const auto& [key, value] : file.metadata()) {
        const std::size_t number = std::strtoull(value.c_str(), nullptr, 10) & 0x7fffffff;
        if (key == "table") table = value;
        if (key == "kind") kind = value;
        if (key == "count") count = number;
        if (key == "interactions") interactions = number;
        if (key == "dim") dim = number;
      }
    }
    // What is checked is what later code relies on without looking.
    const auto slices = [](const Array<std::int64_t>& offsets, std::size_t total) {
      REXIT_PROMISE(offsets.size > 0 && offsets[0] == 0 && static_cast<std::size_t>(offsets[offsets.size - 1]) == total);
      for (std::size_t i = 1; i < offsets.size; ++i) REXIT_PROMISE(offsets[i - 1] <= offsets[i]);
    };
    if (table == "users") {
      const Users users(path, kind, count, interactions, dim);
      slices(users.history_offsets, interactions);
      for (const Row user : users.similar) REXIT_PROMISE(user >= 0 && static_cast<std::size_t>(user) < count);
      REXIT_PROMISE(users.neighbours * count == users.similar.size || count == 0);
    } else if (table == "items") {
      const Items items(path, kind, count, interactions, dim);
      slices(items.rating_offsets, interactions);
    } else {
      const Pieces pieces(path, count, 64);
      slices(pieces.offsets, pieces.tokens.size);
      for (const std::int32_t token : pieces.tokens) REXIT_PROMISE(token >= 0 && token < 64);
    }
  });
  return 0;
}

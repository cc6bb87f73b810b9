// A table of ids with `kind` and `count` in its metadata; then look-ups of existing and missing ids.
#include "bundle/catalog/ids.hpp"

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::core;
  static rexit::fuzz::Folder folder;
  const std::string path = folder.put("input", data, size);
  rexit::fuzz::refused([&] {
    const Safetensors table{File(path)};
    const auto metadata_or_empty = [&](const char* key) {
      const auto entry = table.metadata().find(key);
      return entry != table.metadata().end() ? entry->second : std::string();
    };
    const std::size_t count =
        std::strtoull(metadata_or_empty("count").c_str(), nullptr, 10) & 0x7fffffff;  // as catalog.json's counts
    const Ids ids(table, metadata_or_empty("kind"), count);
    for (const char* text : {"", "item", "\xff\xff"}) rexit::fuzz::refused([&] { (void)ids.find(std::string_view(text)); });
    ids.check();
    for (std::size_t row = 0; row < ids.size(); ++row) {
      const std::string text = ids.text(static_cast<Row>(row));
      const auto match =
          ids.are_strings() ? ids.find(std::string_view(text).substr(1, text.size() - 2)) : ids.find(std::stoll(text));
      REXIT_PROMISE(match && static_cast<std::size_t>(*match) == row);
    }
    for (const std::int64_t number : {INT64_MIN, std::int64_t{0}, INT64_MAX})
      REXIT_PROMISE(!ids.are_strings() || !ids.find(number));
    for (const char* text : {"", "item", "\xff\xff"}) REXIT_PROMISE(ids.are_strings() || !ids.find(std::string_view(text)));
  });
  return 0;
}

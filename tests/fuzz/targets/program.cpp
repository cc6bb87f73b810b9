// A prompt program. An accepted program runs in a bundle.
#include "bundle/catalog/program.hpp"

#include <nlohmann/json.hpp>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  using nlohmann::json;
  static Folder folder;
  static const Archive with_vectors = seed_bundle("vectors"), zero = seed_bundle("zero"), plain = seed_bundle("plain");
  const Archive* base = &plain;
  const auto column = [](const rexit::core::Json& field) { return field.string().size() % 2; };
  if (refused([&] {
        const rexit::core::JsonDocument document(data, size, "prompt");
        const rexit::core::Program program = rexit::core::read_program(document.root(), {20, 20, 64, 96, column, column});
        base = program.has_vectors() ? &with_vectors : program.numbers.empty() ? &plain : &zero;
      }))
    return 0;
  const json prompt = json::parse(data, data + size, nullptr, false);
  if (!prompt.is_object()) return 0;
  Archive archive = *base;
  json catalog = json::parse(archive.at("catalog/catalog.json"));
  catalog["prompt"] = prompt;
  archive["catalog/catalog.json"] = catalog.dump(-1, ' ', false, json::error_handler_t::replace);
  seal(archive);
  folder.put(archive);
  use_bundle(folder.path(), nullptr);
  return 0;
}

// Any text as one of rexit's JSON documents: every accessor at every value.
#include "files/json.hpp"

#include "target.hpp"

namespace {

using rexit::core::Json;
using rexit::fuzz::refused;

void visit(const Json& value) {
  value.where();
  refused([&] { value.integer(-5, 5); });
  refused([&] { value.size(0, SIZE_MAX >> 1); });
  refused([&] { value.boolean(); });
  refused([&] { value.finite_float(); });
  refused([&] { value.strings(); });
  refused([&] { value.at("schema"); });
  refused([&] { value.has("schema"); });
  refused([&] {
    for (const Json& element : value.elements()) visit(element);
  });
  refused([&] {
    for (const auto& [key, member] : value.members()) visit(member);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  refused([&] { visit(rexit::core::JsonDocument(data, size, "input").root()); });
  return 0;
}

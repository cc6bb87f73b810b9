// policy.json of an otherwise sound bundle.
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  static Folder folder;
  static const Archive base = seed_bundle("plain");
  Archive archive = base;
  archive["variants/cpu-fp32/policy.json"].assign(reinterpret_cast<const char*>(data), size);
  folder.put(archive);
  use_bundle(folder.path(), nullptr);
  return 0;
}

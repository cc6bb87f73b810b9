#include <vector>

#include "archive.hpp"
#include "mutate.hpp"

namespace {

using namespace rexit::fuzz;

bool ends_with(const std::string& text, const char* end) {
  const std::string tail(end);
  return text.size() >= tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

// Files are equally likely, except that graphs, if there are any, take half of all cases.
Archive::iterator choose(Archive& archive, Random& random) {
  std::vector<Archive::iterator> all, graphs;
  for (auto at = archive.begin(); at != archive.end(); ++at) {
    all.push_back(at);
    if (ends_with(at->first, ".onnx") && at->second.size() > 64) graphs.push_back(at);
  }
  const auto& some = graphs.empty() || below(random, 2) == 0 ? all : graphs;
  return some[below(random, some.size())];
}

// Changes one to three files, and then usually updates sizes and digests.
void mutate_bundle(std::string& bytes, Random& random) {
  auto archive = unpack(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (!archive || archive->empty()) return mutate_bytes(bytes, random);
  const std::size_t changes = 1 + below(random, 3);
  for (std::size_t change = 0; change < changes; ++change) {
    const auto at = choose(*archive, random);
    if (below(random, 200) == 0 && archive->size() > 1) {
      archive->erase(at);
    } else if (ends_with(at->first, ".json")) {
      mutate_json(at->second, random);
    } else if (ends_with(at->first, ".safetensors")) {
      mutate_safetensors(at->second, random);
    } else if (ends_with(at->first, ".onnx")) {
      mutate_protobuf(at->second, random);
    } else {
      mutate_bytes(at->second, random);
    }
  }
  if (below(random, 16) != 0) seal(*archive);
  bytes = pack(*archive);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  return mutated(data, size, most, seed, mutate_bundle);
}

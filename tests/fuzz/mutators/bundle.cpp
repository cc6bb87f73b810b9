#include <vector>

#include "manifests.hpp"
#include "mutate.hpp"
#include "tar.hpp"

namespace {

using namespace rexit::fuzz;
using tar::Files;

// Files are equally likely, except that graphs, if there are any, take half of all cases.
Files::iterator choose(Files& files, Random& random) {
  std::vector<Files::iterator> all, graphs;
  for (auto at = files.begin(); at != files.end(); ++at) {
    all.push_back(at);
    if (manifests::ends_with(at->first, ".onnx") && at->second.size() > 64) graphs.push_back(at);
  }
  const auto& some = graphs.empty() || below(random, 2) == 0 ? all : graphs;
  return some[below(random, some.size())];
}

void mutate_file(const std::string& name, std::string& contents, Random& random) {
  if (manifests::ends_with(name, ".json")) {
    mutate_json(contents, random);
  } else if (manifests::ends_with(name, ".safetensors")) {
    mutate_safetensors(contents, random);
  } else if (manifests::ends_with(name, ".onnx")) {
    mutate_protobuf(contents, random);
  } else {
    mutate_bytes(contents, random);
  }
}

// Changes one to three files, and then usually updates sizes and digests.
void mutate_bundle(std::string& archive, Random& random) {
  Files files = tar::unpack(archive);
  if (files.empty()) return mutate_bytes(archive, random);
  const std::size_t changes = 1 + below(random, 3);
  for (std::size_t change = 0; change < changes; ++change) {
    const auto file = choose(files, random);
    if (below(random, 200) == 0 && files.size() > 1) {
      files.erase(file);
    } else {
      mutate_file(file->first, file->second, random);
    }
  }
  if (below(random, 16) != 0) manifests::record(files);
  archive = tar::pack(files);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  return mutated(data, size, most, seed, mutate_bundle);
}

#include "files/sha256.hpp"
#include "mutate.hpp"

namespace {

// Usually updates the digest at the end.
void mutate_cache(std::string& bytes, rexit::fuzz::Random& random) {
  constexpr std::size_t digest = 64;
  rexit::fuzz::mutate_safetensors(bytes, random);
  if (bytes.size() < digest || rexit::fuzz::below(random, 16) == 0) return;
  const std::size_t before = bytes.size() - digest;
  bytes.replace(before, digest, rexit::core::sha256(reinterpret_cast<const unsigned char*>(bytes.data()), before));
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  return rexit::fuzz::mutated(data, size, most, seed, mutate_cache);
}

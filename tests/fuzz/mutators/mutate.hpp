// Mutations that keep an input's format, so that the damage passes the parser. The other files of this folder are the
// LLVMFuzzerCustomMutator of some targets. Replays use no mutator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

namespace rexit::fuzz {

using Random = std::minstd_rand;

inline std::size_t below(Random& random, std::size_t limit) {
  return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
}

void mutate_bytes(std::string& bytes, Random& random);  // libFuzzer's own
// Changes a value, key or element; now and then the text itself.
void mutate_json(std::string& text, Random& random);
// Changes the header and updates its length, or changes numbers of a tensor.
void mutate_safetensors(std::string& bytes, Random& random);
// Changes, drops, duplicates or moves a field of a message, at any depth, and updates lengths.
void mutate_protobuf(std::string& bytes, Random& random);

template <class Mutate>
std::size_t mutated(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed, const Mutate& mutate) {
  Random random(seed);
  std::string bytes(reinterpret_cast<const char*>(data), size);
  mutate(bytes, random);
  if (bytes.size() > most) return size;
  std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}

}  // namespace rexit::fuzz

#include "mutate.hpp"

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  return rexit::fuzz::mutated(data, size, most, seed, rexit::fuzz::mutate_safetensors);
}

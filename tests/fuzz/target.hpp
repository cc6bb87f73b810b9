// Shared by fuzz targets. A target is LLVMFuzzerTestOneInput in a file of targets/, called by libFuzzer or replay.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/status.hpp"
#include "rexit/rexit.h"
#include "tar.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace rexit::fuzz {

// Ends the process if a promise is broken, so that the fuzzer saves the input.
#define REXIT_PROMISE(condition)                                                                                          \
  do {                                                                                                                    \
    if (!(condition)) {                                                                                                   \
      std::fprintf(stderr, "%s:%d: broken: %s (last error: %s)\n", __FILE__, __LINE__, #condition, ::rexit_last_error()); \
      std::abort();                                                                                                       \
    }                                                                                                                     \
  } while (false)

// The files of an input that holds a bundle, a tar archive, without names that lead out of its folder.
tar::Files bundle_files(const std::uint8_t* data, std::size_t size);

// The bundle in tests/fuzz/seeds/bundle/NAME.
tar::Files seed_bundle(const char* name);

// A seed bundle that is open.
struct OpenedSeed {
  explicit OpenedSeed(const char* name);
  ~OpenedSeed();

  const std::string name;
  tar::Folder folder;
  rexit_bundle* bundle = nullptr;
};

// Prints the reason of a refusal if the environment has REXIT_FUZZ_SAY, for looking into an input.
void say(const char* text);

// Runs code that may throw the runtime's Error, only with a status for bad files. Returns whether it threw nothing.
template <class Function>
bool refused(const Function& function) {
  try {
    function();
    return false;
  } catch (const core::Error& error) {
    if (error.status() == REXIT_INTERNAL || error.status() == REXIT_OK) std::abort();
    say(error.what());
    return true;
  }
}

// Checks a status from the C ABI: never REXIT_INTERNAL, and with a line of text if it is a failure.
bool ok(rexit_status status);

// Takes an input apart. At its end everything is 0.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  bool empty() const noexcept { return left_ == 0; }
  template <class T>
  T number() noexcept {
    T value{};
    const std::size_t count = left_ < sizeof value ? left_ : sizeof value;
    if (count != 0) std::memcpy(&value, data_, count);
    data_ += count;
    left_ -= count;
    return value;
  }
  std::size_t below(std::size_t limit) noexcept { return number<std::uint8_t>() % limit; }
  bool flag() noexcept { return (number<std::uint8_t>() & 1) != 0; }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

// Opens a bundle through the C ABI and uses it as a program does: describes it, scores, traces, warms up and verifies.
void use_bundle(const std::string& path);
// The same for a bundle that is open, and the first variant of what is at `path`.
void use_opened(const std::string& path, const rexit_bundle* bundle);

}  // namespace rexit::fuzz

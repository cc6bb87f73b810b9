// What fuzz targets share. A target is LLVMFuzzerTestOneInput in a file of targets/; libFuzzer calls it, or replay.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "archive.hpp"
#include "base/status.hpp"
#include "rexit/rexit.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace rexit::fuzz {

// Ends the process where a promise is broken, so that the fuzzer keeps the input.
#define REXIT_PROMISE(condition)                                                                                          \
  do {                                                                                                                    \
    if (!(condition)) {                                                                                                   \
      std::fprintf(stderr, "%s:%d: broken: %s (last error: %s)\n", __FILE__, __LINE__, #condition, ::rexit_last_error()); \
      std::abort();                                                                                                       \
    }                                                                                                                     \
  } while (false)

// A folder in memory (/dev/shm where there is one) that lives as long as the process.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const noexcept { return path_; }
  // Makes the folder hold these files and no others. Files that are the same already are left alone.
  void put(const Archive& archive);
  // Writes one file and returns its path.
  std::string put(const std::string& name, const std::uint8_t* data, std::size_t size);

 private:
  void write(const std::string& name, const std::string& contents);

  std::string path_;
  Archive now_;
};

// tests/fuzz/seeds/bundle/NAME.
Archive seed_bundle(const char* name);

// What was refused and why, where the environment has REXIT_FUZZ_SAY: to look into an input.
void say(const char* text);

// Runs what may throw the runtime's own error, with a status for bad files and nothing else. Returns whether it did not.
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

// A status that the C ABI gave: never a bug of rexit, and with one line of text if it is a failure.
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

// Opens the bundle in a folder through the C ABI and does with it what a program may: describes it, scores, traces, saves and
// loads the cache. `variant`: null: the first.
void use_bundle(const std::string& path, const char* variant);
// The same without opening it: `bundle` is what lies in the folder. The variant is the first.
void use_opened(const std::string& path, const rexit_bundle* bundle);

}  // namespace rexit::fuzz

// Every damaged bundle of tests/damage fails with the status and the text written beside it, and takes memory in proportion
// to its files.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

std::atomic<std::size_t> allocated{0}, peak{0};

void* counted(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  const std::size_t now = allocated += malloc_usable_size(memory);
  std::size_t before = peak;
  while (before < now && !peak.compare_exchange_weak(before, now)) {
  }
  return memory;
}

void release(void* memory) {
  if (memory != nullptr) allocated -= malloc_usable_size(memory);
  std::free(memory);
}

// Regardless of the files: the largest allowed number of JSON values takes 6.3 MB. And per byte of the files: names are stored by
// the JSON, by what is parsed from it and by the message.
constexpr std::size_t fixed_bytes = std::size_t{8} << 20, bytes_per_byte = 4;

std::size_t size_of(const std::string& folder) {
  std::size_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& folder : std::filesystem::directory_iterator(bundles())) all.push_back(folder.path().filename());
  return all;
}

struct Outcome {
  std::string status = "REXIT_OK", text;
  bool opened = false;
};

// Opens the bundle and runs the slate of tests/damage; `searching`: so late that similar users are searched for.
Outcome outcome(const std::string& folder, bool searching = false) {
  Outcome result;
  try {
    rexit::Bundle bundle(folder);
    result.opened = true;
    rexit::Session session(bundle);
    rexit::Request request(std::int64_t{106});
    request.items({std::int64_t{-7}, std::int64_t{18}});
    if (searching) request.as_of(std::int64_t{1} << 40);
    session.score(request);
  } catch (const rexit::Error& error) {
    result.status = rexit_status_name(error.status());
    result.text = error.what();
  }
  return result;
}

TEST(Damage, EndAsExpectedInLittleMemory) {
  outcome(sound_bundle());  // so that what ONNX Runtime allocates once is not counted
  const std::vector<std::string> all = names();
  ASSERT_GT(all.size(), 100u);
  for (const std::string& name : all) {
    SCOPED_TRACE(name);
    std::ifstream expected(bundles() + "/" + name + "/expected");
    std::string status, text, stage;
    std::getline(expected, status);
    std::getline(expected, text);
    std::getline(expected, stage);
    const std::string folder = bundles() + "/" + name + "/bundle";
    const std::size_t before = allocated, files = size_of(folder);
    peak = before;
    const Outcome result = outcome(folder, stage == "searching");
    const std::size_t growth = peak - before;
    EXPECT_LE(growth, fixed_bytes + bytes_per_byte * files) << "its files have " << files << " bytes";
    if (stage == "verifying") {
      EXPECT_TRUE(result.opened) << result.text;
      try {
        rexit::verify(folder);
        ADD_FAILURE() << "verified";
      } catch (const rexit::Error& error) {
        EXPECT_EQ(status, rexit_status_name(error.status()));
        EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
      }
      continue;
    }
    EXPECT_EQ(status, result.status) << result.text;
    EXPECT_NE(result.text.find(text), std::string::npos) << result.text;
    EXPECT_EQ(stage == "running" || stage == "searching", result.opened);
  }
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(std::malloc(bytes)); }
void* operator new[](std::size_t bytes) { return counted(std::malloc(bytes)); }
void* operator new(std::size_t bytes, std::align_val_t to) {
  const auto alignment = static_cast<std::size_t>(to);
  return counted(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

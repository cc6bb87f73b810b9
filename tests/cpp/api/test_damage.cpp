// Every damaged bundle of tests/damage fails with the status and the text written beside it, and takes memory in proportion
// to its files. No function ends in a status that rexit.h does not name at it.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <optional>
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

std::string bundle_of(const std::string& name) { return bundles() + "/" + name + "/bundle"; }

struct Ended {
  rexit_status status = REXIT_OK;
  std::string text;
};

template <class Call>
Ended ended(Call call) {
  try {
    call();
  } catch (const rexit::Error& error) {
    return {error.status(), error.what()};
  }
  return {};
}

// What must come of a bundle, as tests/damage/table.py writes it.
struct Expected {
  explicit Expected(const std::string& name) {
    std::ifstream file(bundles() + "/" + name + "/expected");
    std::getline(file, status);
    std::getline(file, text);
    std::getline(file, stage);
  }
  void check(const Ended& end) const {
    EXPECT_EQ(status, rexit_status_name(end.status)) << end.text;
    EXPECT_NE(end.text.find(text), std::string::npos) << end.text;
  }

  std::string status, text, stage;
};

// The slate of tests/damage; `searching`: so late that similar users are searched for.
rexit::Request slate(bool searching) {
  rexit::Request request(std::int64_t{106});
  request.items({std::int64_t{-7}, std::int64_t{18}});
  if (searching) request.as_of(std::int64_t{1} << 40);
  return request;
}

// What other calls end in where scoring ends in `score`.
void check_other_calls(const rexit::Bundle& bundle, const rexit::Request& request, const Ended& score) {
  rexit::Session session(bundle);
  const Ended warm_up = ended([&] { session.warm_up(); }), prompt = ended([&] { session.prompt(request); });
  EXPECT_TRUE(warm_up.status == REXIT_OK || warm_up.status == REXIT_BACKEND_FAILED) << warm_up.text;
  EXPECT_EQ(ended([&] { session.trace(request); }).text, score.text);
  EXPECT_TRUE(prompt.status == REXIT_OK || (prompt.text == score.text && prompt.status != REXIT_BACKEND_FAILED)) << prompt.text;
  EXPECT_EQ(ended([&] { bundle.reloaded(); }).status, REXIT_OK);
}

TEST(Damage, EndsAsExpectedInLittleMemory) {
  rexit::Session(rexit::Bundle(sound_bundle())).score(slate(false));  // ONNX Runtime allocates for the process, too
  const std::vector<std::string> all = names();
  ASSERT_GT(all.size(), 100u);
  for (const std::string& name : all) {
    SCOPED_TRACE(name);
    const Expected expected(name);
    const std::string folder = bundle_of(name);
    const rexit::Request request = slate(expected.stage == "searching");
    std::optional<rexit::Bundle> bundle;
    const std::size_t before = allocated, files = size_of(folder);
    peak = before;
    const Ended opening = ended([&] { bundle.emplace(folder); });
    const Ended score = bundle ? ended([&] { rexit::Session(*bundle).score(request); }) : opening;
    EXPECT_LE(peak - before, fixed_bytes + bytes_per_byte * files) << "its files have " << files << " bytes";
    EXPECT_EQ(expected.stage != "opening", bundle.has_value()) << opening.text;
    expected.check(expected.stage == "verifying" ? ended([&] { rexit::verify(folder); }) : score);
    if (bundle) check_other_calls(*bundle, request, score);
  }
}

// What opening refuses, describing refuses too, unless it is a graph that does not load, or a text that all prompts begin with.
// Verifying finds all that describing finds, and rows.
TEST(Damage, IsDescribedAsItIsOpenedButForTheSegments) {
  std::size_t refused = 0, loading = 0, rows = 0;
  for (const std::string& name : names()) {
    SCOPED_TRACE(name);
    const std::string folder = bundle_of(name);
    const Ended described = ended([&] { rexit::variants(folder); }), opened = ended([&] { rexit::Bundle{folder}; }),
                verified = ended([&] { rexit::verify(folder); });
    EXPECT_TRUE(verified.status == REXIT_OK || verified.status / 100 == 2) << verified.text;
    if (described.status != REXIT_OK) {
      ++refused;
      EXPECT_EQ(opened.status, described.status) << described.text << '\n' << opened.text;
      EXPECT_NE(verified.status, REXIT_OK);
    } else if (opened.status != REXIT_OK) {
      ++loading;
      EXPECT_TRUE(opened.text.find("/segment-") != std::string::npos || opened.text.find("/zero.onnx") != std::string::npos ||
                  opened.text.find("variant `cpu-fp32`") == 0 ||
                  opened.text.find("pieces.safetensors: `tokens`[") != std::string::npos)
          << opened.text;
    } else if (verified.status != REXIT_OK) {
      ++rows;
    }
  }
  EXPECT_GT(refused, 100u);
  EXPECT_GT(loading, 5u);
  EXPECT_GT(rows, 10u);
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

// Bundles that are not in a folder: archives in a file and in memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"
#include "tar.hpp"

namespace {

namespace fs = std::filesystem;

using tar::end_mark, tar::files_of, tar::member, tar::seal;

rexit::Archive in_memory(const std::string& archive) { return {archive.data(), archive.size()}; }

class Place {
 public:
  Place() : path_(fs::temp_directory_path() / ("rexit-sources-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directory(path_);
  }
  ~Place() { fs::remove_all(path_); }

  std::string put(const std::string& name, const std::string& contents) const {
    const fs::path temporary = path_ / "temporary", file = path_ / name;
    std::ofstream(temporary, std::ios::binary) << contents;
    fs::rename(temporary, file);
    return file;
  }

 private:
  fs::path path_;
};

std::vector<float> trace(const rexit::Bundle& bundle) {
  rexit::Session session(bundle);
  return session.trace(rexit::Request(109).items({std::int64_t{3}, std::int64_t{18}})).log_odds;
}

TEST(Sources, AllGiveTheSameLogOdds) {
  const Place place;
  for (const char* name : {"sound", "sound_with_vectors", "policy_with_rules_of_the_slate"}) {
    SCOPED_TRACE(name);
    const std::string folder = bundles() + "/" + name + "/bundle";
    const tar::Files files = files_of(folder);
    const std::string archive = tar::pack(files), path = place.put("bundle.tar", archive);
    const std::vector<float> expected = trace(rexit::Bundle(folder));
    EXPECT_EQ(trace(rexit::Bundle(path)), expected);
    // On a page, and where every table has to be copied.
    for (const std::size_t offset : {std::size_t{4096}, std::size_t{5004}}) {
      const std::string package = std::string(offset, 'x') + archive + "behind";
      const rexit::Archive part{package.data() + offset, archive.size()};
      EXPECT_EQ(trace(rexit::Bundle(part)), expected);
      rexit::verify(part);
    }
    rexit::verify(path);
    ASSERT_EQ(rexit::variants(path).size(), rexit::variants(folder).size());
    EXPECT_EQ(std::memcmp(&rexit::variants(path)[0], &rexit::variants(folder)[0], sizeof(rexit_variant_info)), 0);
  }
}

TEST(Sources, MemoryIsKeptForTheLastSession) {
  bool kept = true;
  auto* archive = new std::string(tar::pack(files_of(sound_bundle())));
  std::shared_ptr<const void> owner(archive, [&kept](const void* text) {
    kept = false;
    delete static_cast<const std::string*>(text);
  });
  std::optional<rexit::Bundle> bundle(rexit::Archive{archive->data(), archive->size(), std::move(owner)});
  EXPECT_FALSE(bundle->reloaded());  // nothing has changed
  std::optional<rexit::Session> session(*bundle);
  bundle.reset();
  EXPECT_TRUE(kept);
  session.reset();
  EXPECT_FALSE(kept);
}

// A session or bundle that is still open may read its archive's memory.
template <class Handle>
void expect_closed_before_its_memory() {
  const rexit::Bundle other(sound_bundle());
  auto* archive = new std::string(tar::pack(files_of(sound_bundle())));
  std::optional<Handle> handle;
  const void* before = nullptr;
  bool is_open = true;
  std::shared_ptr<const void> owner(archive, [&](const void* text) {
    is_open = handle->get() == before;
    delete static_cast<const std::string*>(text);
  });
  handle.emplace(rexit::Bundle(rexit::Archive{archive->data(), archive->size(), std::move(owner)}));
  before = handle->get();
  *handle = Handle(other);
  EXPECT_FALSE(is_open);
}

TEST(Sources, MemoryIsKeptUntilAnAssignmentHasClosedItsReader) {
  expect_closed_before_its_memory<rexit::Bundle>();
  expect_closed_before_its_memory<rexit::Session>();
}

TEST(Sources, AReplacedArchiveIsReloaded) {
  const Place place;
  tar::Files files = files_of(sound_bundle());
  const rexit::Bundle bundle(place.put("bundle.tar", tar::pack(files)));
  EXPECT_FALSE(bundle.reloaded());
  place.put("bundle.tar", tar::pack(files));  // another file of the same contents
  EXPECT_FALSE(bundle.reloaded());
  files["manifest.json"] += '\n';
  place.put("bundle.tar", tar::pack(files));
  const std::optional<rexit::Bundle> reloaded = bundle.reloaded();
  ASSERT_TRUE(reloaded);
  EXPECT_EQ(trace(*reloaded), trace(bundle));
  EXPECT_FALSE(reloaded->reloaded());
}

TEST(Sources, FilesOfABundleAreRead) {
  const tar::Files files = files_of(sound_bundle());
  const std::string archive = tar::pack(files);
  for (const rexit::Bundle& bundle : {rexit::Bundle(sound_bundle()), rexit::Bundle(in_memory(archive))}) {
    EXPECT_EQ(bundle.read_file("manifest.json"), files.at("manifest.json"));
    refused([&] { bundle.read_file("tokens"); }, REXIT_NOT_FOUND, "/tokens: ");
    refused([&] { bundle.read_file("../bundle/manifest.json"); }, REXIT_INVALID_ARGUMENT, "has a `.` or `..` component");
  }
  const rexit::Bundle bundle(in_memory(archive));
  std::size_t bytes = 0;
  char byte = 'x';
  EXPECT_EQ(rexit_bundle_read_file(bundle.get(), "manifest.json", &byte, 1, &bytes), REXIT_OK);
  EXPECT_EQ(bytes, files.at("manifest.json").size());
  EXPECT_EQ(byte, 'x');
}

void check(const std::string& archive) { rexit::verify(in_memory(archive)); }

TEST(Archives, NamesMayHaveAPrefix) {
  const std::string folder(60, 'f'), name = folder + "/" + folder + "/file";
  tar::Files files = files_of(sound_bundle());
  files[name] = "long";
  const std::string archive = tar::pack(files);
  EXPECT_EQ(rexit::Bundle(in_memory(archive)).read_file(name), "long");
}

TEST(Archives, EveryTruncationIsNoticed) {
  const std::string archive = tar::pack(files_of(sound_bundle()));
  for (std::size_t size = 0; size + end_mark.size() <= archive.size(); size += 256) {
    SCOPED_TRACE(size);
    refused([&] { check(archive.substr(0, size)); }, REXIT_CORRUPT, "");
  }
}

TEST(Archives, DamageIsRefusedInOneLine) {
  const tar::Files files = files_of(sound_bundle());
  const std::string sound = tar::pack(files).substr(0, tar::pack(files).size() - end_mark.size());
  const auto with = [&](const std::string& more) { return sound + more + end_mark; };
  const auto changed = [&](const std::function<void(char*)>& change) {
    std::string more = member("more", "1234");
    change(more.data());
    return with(more);
  };
  check(with(""));
  check(with(member("more", "1234")));
  struct Case {
    std::string archive;
    rexit_status status;
    const char* text;
  };
  const std::vector<Case> cases = {
      {"", REXIT_CORRUPT, "expected a folder, or an uncompressed tar archive"},
      {std::string(2048, '\0'), REXIT_CORRUPT, "expected a folder, or an uncompressed tar archive"},
      {"\x1f\x8b" + std::string(2048, 'x'), REXIT_CORRUPT, "expected a folder, or an uncompressed tar archive"},
      {sound, REXIT_CORRUPT, "without the archive's end (truncated)"},
      {with(member("../more", "")), REXIT_CORRUPT, "`../more` has a `.` or `..` component"},
      {with(member("/more", "")), REXIT_CORRUPT, "`/more` is absolute or has an empty component"},
      {with(member("a/./b", "")), REXIT_CORRUPT, "`a/./b` has a `.` or `..` component"},
      {with(member("", "")), REXIT_CORRUPT, "`` is absolute or has an empty component"},
      {with(member("manifest.json", "{}")), REXIT_CORRUPT, "`manifest.json` is there twice"},
      {with(member("more", "", '2')), REXIT_CORRUPT, "`more` is a link, which a bundle must not contain"},
      {with(member("more", "", '1')), REXIT_CORRUPT, "`more` is a link, which a bundle must not contain"},
      {with(member("more", "", '6')), REXIT_CORRUPT, "`more` is not a plain file"},
      {with(member("more", "", 'x')), REXIT_UNSUPPORTED, "write the archive with `tar --format=ustar`"},
      {with(member("more", "", 'L')), REXIT_UNSUPPORTED, "write the archive with `tar --format=ustar`"},
      {changed([](char* header) { ++header[0]; }), REXIT_CORRUPT, "is damaged"},
      {changed([](char* header) { std::memcpy(header + 257, "tar", 3); }), REXIT_CORRUPT, "is damaged"},
      {changed([](char* header) { std::memcpy(header + 124, "77777777777", 11), seal(header); }), REXIT_CORRUPT,
       "`more` has 8589934591 bytes, the archive only "},
      {changed([](char* header) { std::memcpy(header + 124, "777777777777", 12), seal(header); }), REXIT_CORRUPT,
       "`more` has 68719476735 bytes, the archive only "},
      {changed([](char* header) { header[124] = '\x80', seal(header); }), REXIT_UNSUPPORTED, "a file of 8 GiB or more"},
      {changed([](char* header) { std::memset(header + 124, '\0', 12), seal(header); }), REXIT_UNSUPPORTED, "no octal number"},
      {sound + member("more", "1234").substr(0, 700), REXIT_CORRUPT, "ends within the padding of `more` (truncated)"},
      {tar::pack({{"manifest.json", "{}"}}), REXIT_CORRUPT, "bundle/manifest.json: `schema` is missing"},
  };
  for (const Case& damage : cases) refused([&] { check(damage.archive); }, damage.status, damage.text);
  tar::Files without = files;
  without.erase("catalog/users.safetensors");
  refused([&] { check(tar::pack(without)); }, REXIT_NOT_FOUND, "bundle/catalog/users.safetensors: is not in the archive");
  tar::Files longer = files;
  longer["catalog/users.safetensors"] += 'x';
  refused([&] { check(tar::pack(longer)); }, REXIT_CORRUPT, "catalog/users.safetensors: ");
}

}  // namespace

// Bundles that are not in a folder: archives in a file and in memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

namespace fs = std::filesystem;

using Members = std::map<std::string, std::string>;

Members files_of(const std::string& folder) {
  Members files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[fs::relative(entry.path(), folder)].assign(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

// Sets the checksum of a ustar header.
void seal(char* header) {
  std::memset(header + 148, ' ', 8);
  unsigned sum = 0;
  for (int i = 0; i < 512; ++i) sum += static_cast<unsigned char>(header[i]);
  std::snprintf(header + 148, 8, "%06o", sum);
}

std::string member(const std::string& name, const std::string& contents, char type = '0') {
  std::string text(512, '\0');
  const std::size_t slash = name.size() > 100 ? name.find('/', name.size() - 101) : std::string::npos;
  if (slash == std::string::npos) {
    text.replace(0, name.size(), name);
  } else {  // the name's beginning is its prefix
    text.replace(345, slash, name.substr(0, slash));
    text.replace(0, name.size() - slash - 1, name.substr(slash + 1));
  }
  std::snprintf(text.data() + 124, 12, "%011zo", contents.size());
  text[156] = type;
  std::memcpy(text.data() + 257, "ustar\00000", 8);
  seal(text.data());
  return text + contents + std::string((512 - contents.size() % 512) % 512, '\0');
}

const std::string end_mark(1024, '\0');

std::string tar(const Members& files) {
  std::string archive = member("./", "", '5');
  for (const auto& [name, contents] : files) archive += member("./" + name, contents);
  return archive + end_mark;
}

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
    const Members files = files_of(folder);
    const std::string archive = tar(files), path = place.put("bundle.tar", archive);
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
  auto* archive = new std::string(tar(files_of(sound_bundle())));
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
  auto* archive = new std::string(tar(files_of(sound_bundle())));
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
  Members files = files_of(sound_bundle());
  const rexit::Bundle bundle(place.put("bundle.tar", tar(files)));
  EXPECT_FALSE(bundle.reloaded());
  place.put("bundle.tar", tar(files));  // another file of the same contents
  EXPECT_FALSE(bundle.reloaded());
  files["manifest.json"] += '\n';
  place.put("bundle.tar", tar(files));
  const std::optional<rexit::Bundle> reloaded = bundle.reloaded();
  ASSERT_TRUE(reloaded);
  EXPECT_EQ(trace(*reloaded), trace(bundle));
  EXPECT_FALSE(reloaded->reloaded());
}

TEST(Sources, FilesOfABundleAreRead) {
  const Members files = files_of(sound_bundle());
  const std::string archive = tar(files);
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
  Members files = files_of(sound_bundle());
  files[name] = "long";
  const std::string archive = tar(files);
  EXPECT_EQ(rexit::Bundle(in_memory(archive)).read_file(name), "long");
}

TEST(Archives, EveryTruncationIsNoticed) {
  const std::string archive = tar(files_of(sound_bundle()));
  for (std::size_t size = 0; size + end_mark.size() <= archive.size(); size += 256) {
    SCOPED_TRACE(size);
    refused([&] { check(archive.substr(0, size)); }, REXIT_CORRUPT, "");
  }
}

TEST(Archives, DamageIsRefusedInOneLine) {
  const Members files = files_of(sound_bundle());
  const std::string sound = tar(files).substr(0, tar(files).size() - end_mark.size());
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
      {tar({{"manifest.json", "{}"}}), REXIT_CORRUPT, "bundle/manifest.json: `schema` is missing"},
  };
  for (const Case& damage : cases) refused([&] { check(damage.archive); }, damage.status, damage.text);
  Members without = files;
  without.erase("catalog/users.safetensors");
  refused([&] { check(tar(without)); }, REXIT_NOT_FOUND, "bundle/catalog/users.safetensors: is not in the archive");
  Members longer = files;
  longer["catalog/users.safetensors"] += 'x';
  refused([&] { check(tar(longer)); }, REXIT_CORRUPT, "catalog/users.safetensors: ");
}

}  // namespace

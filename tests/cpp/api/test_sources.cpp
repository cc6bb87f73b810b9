// Bundles that are not in a folder: archives in a file, in memory and in a part of an open file, and files that the program
// reads.
#include <fcntl.h>
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
#include <stdexcept>
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

rexit::Source in_memory(const std::string& archive) { return rexit::Source::archive(archive.data(), archive.size()); }

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

struct Descriptor {
  explicit Descriptor(const std::string& path) : number(::open(path.c_str(), O_RDONLY)) {}
  ~Descriptor() { ::close(number); }
  int number;
};

class InMap final : public rexit::Files {
 public:
  explicit InMap(Members files) : files_(std::move(files)) {}

  std::optional<std::size_t> size(const char* path) override {
    const auto file = files_.find(path);
    return file == files_.end() ? std::nullopt : std::make_optional(file->second.size());
  }
  void read(const char* path, void* buffer, std::size_t bytes) override {
    ASSERT_EQ(bytes, files_.at(path).size());
    std::memcpy(buffer, files_.at(path).data(), bytes);
  }

 private:
  Members files_;
};

std::vector<float> trace(const rexit::Bundle& bundle) {
  rexit::Session session(bundle);
  const rexit::Id user = bundle.id(REXIT_USERS, 3);
  return session.trace(rexit::Request(user).items({bundle.id(REXIT_ITEMS, 2), bundle.id(REXIT_ITEMS, 5)})).log_odds;
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
    std::vector<rexit::Source> sources{in_memory(archive), rexit::Source::files(std::make_shared<InMap>(files))};
    // Within a larger file, as Android's packages have it: on a page, and where every table has to be copied.
    for (const std::size_t offset : {std::size_t{4096}, std::size_t{5004}}) {
      const Descriptor asset(place.put("package", std::string(offset, 'x') + archive + "behind"));
      const auto source = rexit::Source::file(asset.number, offset, archive.size());
      EXPECT_EQ(trace(rexit::Bundle(source)), expected);
      rexit::verify(source);
    }
    for (const rexit::Source& source : sources) {
      EXPECT_EQ(trace(rexit::Bundle(source)), expected);
      rexit::verify(source);
      ASSERT_EQ(rexit::variants(source).size(), rexit::variants(folder).size());
      EXPECT_EQ(std::memcmp(&rexit::variants(source)[0], &rexit::variants(folder)[0], sizeof(rexit_variant_info)), 0);
    }
    rexit::verify(path);
  }
}

TEST(Sources, TheDescriptorMayBeClosedAfterTheCall) {
  const Place place;
  const std::string path = place.put("bundle.tar", tar(files_of(sound_bundle())));
  auto descriptor = std::make_unique<Descriptor>(path);
  const rexit::Bundle bundle(rexit::Source::file(descriptor->number));
  descriptor.reset();
  EXPECT_EQ(trace(bundle), trace(rexit::Bundle(path)));
  refused([] { rexit::Bundle(rexit::Source::file(-1)); }, REXIT_INVALID_ARGUMENT, "file descriptor -1 is not open");
}

TEST(Sources, OutsideTheFileIsRefused) {
  const Place place;
  const Descriptor file(place.put("bundle.tar", tar(files_of(sound_bundle()))));
  refused([&] { rexit::Bundle(rexit::Source::file(file.number, 512, UINT64_MAX)); }, REXIT_CORRUPT, "(truncated)");
  refused([&] { rexit::Bundle(rexit::Source::file(file.number, UINT64_MAX, 512)); }, REXIT_CORRUPT, "(truncated)");
}

// As C programs see it.
int releases = 0;
TEST(Sources, AreReleasedOnceWithTheLastSession) {
  const std::string archive = tar(files_of(sound_bundle()));
  releases = 0;
  rexit_source source{};
  source.struct_size = sizeof source;
  source.archive = archive.data();
  source.archive_bytes = archive.size();
  source.release = [](void*) { ++releases; };
  rexit_bundle *bundle = nullptr, *reloaded = nullptr;
  rexit_session* session = nullptr;
  EXPECT_EQ(rexit_source_verify(&source, nullptr), REXIT_OK);
  EXPECT_EQ(releases, 0);
  ASSERT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_OK);
  ASSERT_EQ(rexit_session_create(bundle, nullptr, &session), REXIT_OK);
  EXPECT_EQ(rexit_bundle_reload(bundle, &reloaded), REXIT_OK);
  EXPECT_EQ(reloaded, nullptr);  // nothing has changed
  rexit_bundle_close(bundle);
  EXPECT_EQ(releases, 0);
  rexit_session_destroy(session);
  EXPECT_EQ(releases, 1);
  source.archive_bytes = 100;
  EXPECT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_CORRUPT);
  EXPECT_EQ(releases, 2);
}

TEST(Sources, HaveExactlyOneKind) {
  rexit_bundle* bundle = nullptr;
  rexit_source source{};
  source.struct_size = sizeof source;
  EXPECT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_INVALID_ARGUMENT);
  source.archive = "x";
  source.archive_bytes = 1;
  source.has_file = 1;
  EXPECT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_INVALID_ARGUMENT);
  source.archive = nullptr;
  source.has_file = 2;
  EXPECT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_INVALID_ARGUMENT);
  source.has_file = 0;
  source.get_size = [](void*, const char*, std::size_t*) { return REXIT_OK; };
  EXPECT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_INVALID_ARGUMENT);
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

TEST(Sources, TheProgramsFailuresAreTheCallsFailures) {
  struct Failing final : rexit::Files {
    std::optional<std::size_t> size(const char*) override { throw std::runtime_error("the key is lost"); }
    void read(const char*, void*, std::size_t) override {}
  };
  refused([] { rexit::Bundle(rexit::Source::files(std::make_shared<Failing>()).name("store")); }, REXIT_NOT_FOUND,
          "store/manifest.json: is not among the program's files");
  rexit_bundle* bundle = nullptr;
  rexit_source source{};
  source.struct_size = sizeof source;
  source.get_size = [](void*, const char*, std::size_t* bytes) { return *bytes = 10, REXIT_OK; };
  source.read = [](void*, const char*, void*, std::size_t) { return REXIT_OUT_OF_MEMORY; };
  EXPECT_EQ(rexit_source_open(&source, nullptr, &bundle), REXIT_OUT_OF_MEMORY);
  EXPECT_STREQ(rexit_last_error(), "bundle/manifest.json: the program's read returned REXIT_OUT_OF_MEMORY");
}

TEST(Sources, AFileOfAnotherSizeIsRefused) {
  Members files = files_of(sound_bundle());
  files["catalog/users.safetensors"] += 'x';
  refused([&] { rexit::Bundle(rexit::Source::files(std::make_shared<InMap>(files))); }, REXIT_CORRUPT,
          "bundle/catalog/users.safetensors: ");
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

// Only reads headers and JSON.
void describe(const std::string& archive) { rexit::variants(in_memory(archive)); }

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
    refused([&] { describe(archive.substr(0, size)); }, REXIT_CORRUPT, "");
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
  describe(with(""));
  describe(with(member("more", "1234")));
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
  for (const Case& damage : cases) refused([&] { describe(damage.archive); }, damage.status, damage.text);
  Members without = files;
  without.erase("catalog/users.safetensors");
  refused([&] { describe(tar(without)); }, REXIT_NOT_FOUND, "bundle/catalog/users.safetensors: is not in the archive");
  Members longer = files;
  longer["catalog/users.safetensors"] += 'x';
  refused([&] { describe(tar(longer)); }, REXIT_CORRUPT, "catalog/users.safetensors: ");
}

}  // namespace

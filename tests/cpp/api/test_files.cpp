// A bundle's files before it is opened, and files modified while it is open.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "opening.hpp"
#include "rexit/rexit.hpp"

namespace {

namespace fs = std::filesystem;

// A copy of a bundle that a test may damage.
class FilesTest : public testing::Test {
 protected:
  FilesTest() : folder_(fs::temp_directory_path() / ("rexit-files-" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
    fs::copy(sound_bundle(), folder_, fs::copy_options::recursive);
  }
  ~FilesTest() override { fs::remove_all(folder_); }

  std::string path() const { return folder_; }
  fs::path file(const std::string& name) const { return folder_ / name; }

  // Changes one bit in place.
  void flip(const std::string& name, std::uintmax_t at) const {
    std::fstream stream(file(name), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(byte);
  }

 private:
  fs::path folder_;
};

const std::string variant = "variants/cpu-fp32/";

TEST_F(FilesTest, ASoundBundleIsVerified) {
  rexit::verify(path());
  rexit::verify(path(), "cpu-fp32");
  refused([&] { rexit::verify(path(), "gpu"); }, REXIT_UNKNOWN_VARIANT, "gpu");
}

// Opening checks only sizes; digests detect a flipped bit in any file.
TEST_F(FilesTest, EveryFlippedBitIsFound) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(path()))
    if (entry.is_regular_file() && entry.path().filename() != "manifest.json")
      names.push_back(fs::relative(entry.path(), path()));
  EXPECT_GT(names.size(), 9u);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const std::uintmax_t middle = fs::file_size(file(name)) / 2;
    flip(name, middle);
    refused([&] { rexit::verify(path()); }, REXIT_CORRUPT, name + ": SHA-256 ");
    if (name == variant + "segment-1.onnx.data") rexit::Bundle{path()};
    flip(name, middle);
    rexit::verify(path());
  }
}

// A bundle with a variant for TensorRT, and engines of it.
TEST_F(FilesTest, AVariantIsVerifiedWithItsEnginesAndWithoutTheOthers) {
  fs::remove_all(path());
  fs::copy(tensorrt_bundles() + "/sound/bundle", path(), fs::copy_options::recursive);
  const std::vector<rexit_variant_info> variants = rexit::variants(path());
  ASSERT_EQ(variants.size(), 2u);
  EXPECT_STREQ(variants[0].name, "cpu-fp32");
  EXPECT_STREQ(variants[1].name, "tensorrt-fp16");
  for (const std::string part : {"segment-1.onnx", "engines/sm87-trt10.3.0/segment-1.plan"}) {
    const std::string name = "variants/tensorrt-fp16/" + part;
    const std::uintmax_t middle = fs::file_size(file(name)) / 2;
    flip(name, middle);
    rexit::verify(path(), "cpu-fp32");
    for (const char* verified : {"tensorrt-fp16", ""})
      refused([&] { rexit::verify(path(), verified); }, REXIT_CORRUPT, name + ": SHA-256 ");
    flip(name, middle);
  }
}

// Also if the tests run as root, who may read and write everything.
class Unprivileged {
 public:
  Unprivileged() {
    if (user_ == 0) EXPECT_EQ(::seteuid(65534), 0);
  }
  ~Unprivileged() { EXPECT_EQ(::seteuid(user_), 0); }

 private:
  const uid_t user_ = ::geteuid();
};

TEST_F(FilesTest, AFileThatMayNotBeReadIsNotFound) {
  for (const auto& entry : fs::recursive_directory_iterator(path())) fs::permissions(entry, static_cast<fs::perms>(0755));
  fs::permissions(file(variant + "segment-1.onnx.data"), fs::perms::none);
  const Unprivileged user;
  refused([&] { rexit::verify(path()); }, REXIT_NOT_FOUND, "segment-1.onnx.data: cannot be opened: Permission denied");
}

// Whichever component of a path is the link, and whether it leads out of the bundle or not.
TEST_F(FilesTest, NoFileIsReadThroughALink) {
  const fs::path outside = path() + "-outside";
  fs::remove_all(outside);
  fs::create_directories(outside / "inner");
  std::ofstream(outside / "inner" / "secret") << "not the bundle's";
  fs::create_directories(file("real/inner"));
  std::ofstream(file("real/inner/own")) << "the bundle's";
  fs::create_directory_symlink(outside, file("elsewhere"));
  fs::create_directory_symlink(outside / "inner", file("real/away"));
  fs::create_directory_symlink("real", file("alias"));
  fs::create_symlink(outside / "inner" / "secret", file("real/inner/link"));
  fs::create_symlink(outside / "nowhere", file("dangling"));
  const rexit::Bundle bundle(path());
  EXPECT_EQ(bundle.read_file("real/inner/own").size(), 12u);
  for (const char* name : {"elsewhere/inner/secret", "elsewhere/nothing", "real/away/secret", "alias/inner/own",
                           "real/inner/link", "dangling", "elsewhere"})
    refused([&] { (void)bundle.read_file(name); }, REXIT_CORRUPT, std::string(name) + ": is a symbolic link or below one");
  refused([&] { (void)bundle.read_file("real/nothing/own"); }, REXIT_NOT_FOUND, "No such file");
  refused([&] { (void)bundle.read_file("real/inner/own/more"); }, REXIT_NOT_FOUND, "Not a directory");
  refused([&] { (void)bundle.read_file("real/inner"); }, REXIT_CORRUPT, "is not a plain file");

  // The bundle itself may be reached by a link.
  fs::create_directory_symlink(path(), outside / "bundle");
  EXPECT_EQ(rexit::Bundle(outside / "bundle").read_file("real/inner/own").size(), 12u);
  fs::remove_all(outside);
}

TEST_F(FilesTest, VariantsAreListedWithTheirMemory) {
  const std::vector<rexit_variant_info> all = rexit::variants(path());
  ASSERT_EQ(all.size(), 1u);
  EXPECT_STREQ(all[0].name, "cpu-fp32");
  EXPECT_STREQ(all[0].target, "cpu");
  EXPECT_STREQ(all[0].precision, "fp32");
  EXPECT_EQ(all[0].calibrated, 0);
  std::uintmax_t graphs = 0;
  for (const auto& entry : fs::directory_iterator(file(variant)))
    if (entry.path().filename().string().rfind("segment-", 0) == 0) graphs += entry.file_size();
  EXPECT_EQ(all[0].graph_bytes, graphs);

  rexit_variant_info info{};
  EXPECT_EQ(rexit_bundle_get_variant(path().c_str(), 1, &info), REXIT_UNKNOWN_VARIANT);
}

TEST(Files, OfABundleAreRead) {
  const rexit::Bundle bundle(sound_bundle());
  std::ifstream file(sound_bundle() + "/manifest.json", std::ios::binary);
  const std::string manifest(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(bundle.read_file("manifest.json"), manifest);
  refused([&] { bundle.read_file("tokens"); }, REXIT_NOT_FOUND, "/tokens: ");
  refused([&] { bundle.read_file("../bundle/manifest.json"); }, REXIT_INVALID_ARGUMENT, "has a `.` or `..` component");
  std::size_t bytes = 0;
  char byte = 'x';
  EXPECT_EQ(rexit_bundle_read_file(bundle.get(), "manifest.json", &byte, 1, &bytes), REXIT_OK);
  EXPECT_EQ(bytes, manifest.size());
  EXPECT_EQ(byte, 'x');
}

TEST(Files, TheEstimatesAreTheMemoryOfAWarmSessionAndTheTables) {
  const std::string folder = bundles() + "/sound/bundle";
  const rexit_variant_info info = rexit::variants(folder)[0];
  rexit::Session session{rexit::Bundle(folder)};
  session.warm_up();
  const auto memory = static_cast<double>(session.memory().prefixes + session.memory().buffers);
  EXPECT_LT(memory, 1.25 * static_cast<double>(info.session_bytes));
  EXPECT_GT(memory, 0.8 * static_cast<double>(info.session_bytes));
  std::uintmax_t tables = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") tables += entry.file_size();
  EXPECT_EQ(info.catalog_bytes, tables);
}

// What was checked at open no longer holds: these offsets would lead out of the table.
TEST_F(FilesTest, ATableOverwrittenInPlaceIsNoticed) {
  const std::string name = "catalog/users.safetensors";
  rexit::Session session{rexit::Bundle(path())};
  const rexit::Request request = rexit::Request(std::int64_t{106}).items({std::int64_t{8}});
  session.score(request);
  const std::uintmax_t size = fs::file_size(file(name));
  {
    std::fstream stream(file(name), std::ios::in | std::ios::out | std::ios::binary);
    const std::string noise(size, '\x7f');
    stream.write(noise.data(), static_cast<std::streamsize>(noise.size()));
  }
  ASSERT_EQ(fs::file_size(file(name)), size);
  refused([&] { session.score(request); }, REXIT_MISMATCH, "users.safetensors: was modified");
  refused([&] { session.trace(request); }, REXIT_MISMATCH, "users.safetensors: was modified");
  refused([&] { session.prompt(request); }, REXIT_MISMATCH, "users.safetensors: was modified");
}

TEST_F(FilesTest, ATableReplacedByRenamingIsNot) {
  const fs::path table = file("catalog/users.safetensors"), other = file("new");
  rexit::Session session{rexit::Bundle(path())};
  const rexit::Request request = rexit::Request(std::int64_t{106}).items({std::int64_t{8}});
  const float before = session.score(request).scores[0].log_odds;
  std::ofstream(other) << "another table";
  fs::rename(other, table);
  EXPECT_EQ(session.score(request).scores[0].log_odds, before);
}

}  // namespace

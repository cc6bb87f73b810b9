// Cached prefixes saved and loaded: what comes back, and what becomes of files that are not what they should be.
// tests/runtime/test_saved_cache.py has every way to damage a file, with its message.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "files/sha256.hpp"
#include "rexit/rexit.hpp"

namespace {

namespace fs = std::filesystem;

const std::vector<rexit::Id> slate{std::int64_t{-7}, std::int64_t{8}, std::int64_t{88}, std::int64_t{3}};
constexpr std::int64_t users[] = {100, 103, 106, 109, 112};

rexit::Request request(std::int64_t user) { return rexit::Request(user).items(slate); }

std::function<void(int)> on_fsync;  // called before every fsync

class SavedCache : public testing::TestWithParam<const char*> {
 protected:
  SavedCache() { fs::create_directories(folder_); }
  ~SavedCache() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "cache").string(); }

  // Prefixes of different depths, and one that has grown since.
  void fill(rexit::Session& session) const {
    for (std::size_t n = 0; n < std::size(users); ++n)
      session.score(request(users[n]).force_exit(static_cast<std::uint32_t>(n % 3)));
    session.score(request(users[2]).recent({std::int64_t{13}}).force_exit(0));
  }

  static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void write(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  const std::string folder = bundles() + "/" + GetParam() + "/bundle";

 private:
  fs::path folder_ = fs::temp_directory_path() / ("rexit-saved-" + std::to_string(::getpid()));
};

TEST_P(SavedCache, AnotherProcessContinuesWithTheSavedPrefixes) {
  const rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  fill(session);
  session.save_cache(path());
  const std::vector<std::string> left{fs::directory_iterator(fs::path(path()).parent_path())->path().string()};
  EXPECT_EQ(left, std::vector<std::string>{path()});

  rexit::Session other{rexit::Bundle(folder)};
  other.score(request(115));  // the load drops it
  other.load_cache(path());
  EXPECT_LE(other.memory().prefixes, session.memory().prefixes);  // no hidden states at full depth
  for (const bool grown : {true, false})
    for (const std::int64_t user : users) {
      rexit::Request again = request(user);
      if (grown) again.recent({std::int64_t{13}});
      const rexit::Trace before = session.trace(again), after = other.trace(again);
      EXPECT_EQ(after.log_odds, before.log_odds) << "user " << user;
      EXPECT_EQ(after.stats.prefix_tokens_reused, before.stats.prefix_tokens_reused);
      EXPECT_EQ(after.stats.prefix_layers, before.stats.prefix_layers);
    }
  EXPECT_GT(other.trace(request(115)).stats.prefix_layers, 0u);
}

TEST_P(SavedCache, ItIsSyncedBeforeItIsRenamed) {
  rexit::Session session{rexit::Bundle(folder)};
  fill(session);
  session.save_cache(path());
  const std::string older = read(path());
  session.trace(request(115));
  std::size_t synced = 0;
  on_fsync = [&](int file) {
    const std::string name = fs::read_symlink("/proc/self/fd/" + std::to_string(file));
    if (name.rfind(path() + ".", 0) != 0) return;
    synced = fs::file_size(name);
    EXPECT_EQ(read(path()), older);
  };
  session.save_cache(path());
  on_fsync = nullptr;
  EXPECT_EQ(synced, fs::file_size(path()));
  EXPECT_NE(read(path()), older);
}

// A process that has the old file open, or under another name, keeps its contents.
TEST_P(SavedCache, AnOlderFileIsReplacedNotOverwritten) {
  const rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  session.save_cache(path());
  const std::string before = read(path()), link = path() + ".link";
  fs::create_hard_link(path(), link);
  fill(session);
  session.save_cache(path());
  EXPECT_EQ(read(link), before);
  EXPECT_NE(read(path()), before);
}

TEST_P(SavedCache, ItIsAboutAsLargeAsThePrefixes) {
  const rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  for (std::int64_t user = 100; user < 136; user += 3) session.trace(request(user));
  session.save_cache(path());
  const auto size = static_cast<double>(fs::file_size(path())), prefixes = static_cast<double>(session.memory().prefixes);
  EXPECT_GT(size, 0.75 * prefixes);  // it leaves out hidden states that are not needed any more
  EXPECT_LT(size, 1.1 * prefixes);
}

TEST_P(SavedCache, TheMostRecentFitTheBudget) {
  const rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  for (const std::int64_t user : users) session.trace(request(user));
  session.save_cache(path());
  const std::size_t all = session.memory().prefixes;
  for (const std::size_t budget : {std::size_t{1}, all / 4, all / 2, all}) {
    rexit::Session other(bundle, budget);
    other.load_cache(path());
    EXPECT_LE(other.memory().prefixes, budget);
    EXPECT_GE(other.memory().prefixes + all / 3, budget);
    if (budget < all / 4) continue;
    const rexit::Trace last = other.trace(request(users[4]));
    EXPECT_EQ(last.stats.prefix_layers, 0u);
    EXPECT_EQ(last.log_odds, session.trace(request(users[4])).log_odds);
  }
}

TEST_P(SavedCache, AnEmptyCacheIsSavedToo) {
  rexit::Session session{rexit::Bundle(folder)};
  session.save_cache(path());
  session.score(request(users[0]));
  session.load_cache(path());
  EXPECT_EQ(session.memory().prefixes, 0u);
}

// Files with wrong bytes in them, most of them with a digest that fits: refused with a status, or harmless. The
// session is then unchanged, or has loaded the file.
TEST_P(SavedCache, DamagedFilesDoNoHarm) {
  const rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  fill(session);
  session.save_cache(path());
  const std::string sound = read(path());
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<unsigned char>(sound[static_cast<std::size_t>(i)]);
  const std::size_t data = 8 + static_cast<std::size_t>(header), digest = 64;
  const std::vector<float> expected = session.trace(request(users[0])).log_odds;

  std::mt19937 random(7);
  const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  std::map<int, int> status_counts;
  const int rounds = slow() ? 1200 : 120;
  for (int round = 0; round < rounds; ++round) {
    std::string bytes = sound;
    const std::size_t kind = below(8);
    // Where: the header, the numbers after it (lengths, computed tokens, tokens), anywhere.
    const std::size_t begin = kind < 3 ? 0 : kind < 6 ? data : 0;
    const std::size_t end = kind < 3 ? data : kind < 6 ? data + 1200 : bytes.size() - digest;
    for (std::size_t n = 0; n <= below(3); ++n) {
      char& byte = bytes[begin + below(std::min(end, bytes.size() - digest) - begin)];
      byte = static_cast<char>(kind % 2 == 0 ? byte ^ 1 << below(8) : static_cast<int>(random()));
    }
    if (below(10) == 0) bytes.resize(below(bytes.size()));
    if (below(10) != 0 && bytes.size() > digest) {
      const std::size_t before = bytes.size() - digest;
      bytes.replace(before, digest, rexit::core::sha256(reinterpret_cast<const unsigned char*>(bytes.data()), before));
    }
    write(path(), bytes);
    const rexit_status status = rexit_session_load_cache(session.get(), path().c_str());
    ++status_counts[status];
    if (status == REXIT_OK) {
      try {
        for (const std::int64_t user : {users[0], users[2]}) session.trace(request(user));
      } catch (const rexit::Error& error) {
        EXPECT_EQ(error.status(), REXIT_BACKEND_FAILED) << error.what();
      }
      write(path(), sound);
      session.load_cache(path());
    } else {
      EXPECT_TRUE(status == REXIT_CORRUPT || status == REXIT_MISMATCH || status == REXIT_UNSUPPORTED) << rexit_last_error();
    }
    if (round % 50 != 0 && status != REXIT_OK) continue;
    const rexit::Trace trace = session.trace(request(users[0]));
    EXPECT_EQ(trace.stats.prefix_tokens_reused, trace.stats.prefix_tokens);
    EXPECT_EQ(trace.log_odds, expected);
  }
  EXPECT_GT(status_counts[REXIT_OK], rounds / 12);
  EXPECT_GT(status_counts[REXIT_CORRUPT], rounds / 3);
  EXPECT_GT(status_counts[REXIT_MISMATCH], 0);
}

INSTANTIATE_TEST_SUITE_P(Bundles, SavedCache, testing::Values("sound", "sound_with_vectors", "sound_with_start"));

}  // namespace

// In the place of the C library's.
extern "C" int fsync(int file) {
  if (on_fsync) on_fsync(file);
  return static_cast<int>(::syscall(SYS_fsync, file));
}

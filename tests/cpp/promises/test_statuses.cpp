// Which statuses a function ends in, on every damaged bundle of tests/damage: those that rexit.h names at the function.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.hpp"

namespace {

namespace fs = std::filesystem;

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

std::vector<std::string> folders() {
  std::vector<std::string> all;
  for (const auto& folder : fs::directory_iterator(bundles())) all.push_back(folder.path().string() + "/bundle");
  return all;
}

using Statuses = std::set<rexit_status>;

// "Any of them may return" these three; damage is no reason for the last two.
Statuses named(Statuses statuses) {
  statuses.insert({REXIT_OK, REXIT_INVALID_ARGUMENT});
  return statuses;
}

const Statuses of_files{REXIT_NOT_FOUND, REXIT_CORRUPT, REXIT_UNSUPPORTED, REXIT_MISMATCH};

Statuses and_of_files(Statuses statuses) {
  statuses.insert(of_files.begin(), of_files.end());
  return named(statuses);
}

TEST(Statuses, AreThoseNamedAtTheFunctions) {
  const Statuses scoring = named({REXIT_UNKNOWN_ITEM, REXIT_TOO_LONG, REXIT_CORRUPT, REXIT_MISMATCH, REXIT_BACKEND_FAILED});
  std::map<std::string, Statuses> statuses_of;
  const auto check = [&statuses_of](const char* function, const Statuses& expected, const Ended& end) {
    EXPECT_EQ(expected.count(end.status), 1u) << function << " ended in " << rexit_status_name(end.status) << ": " << end.text;
    statuses_of[function].insert(end.status);
  };
  for (const std::string& folder : folders()) {
    SCOPED_TRACE(folder);
    check("get_variant", and_of_files({REXIT_UNKNOWN_VARIANT}), ended([&] { rexit::variants(folder); }));
    check("verify", and_of_files({REXIT_UNKNOWN_VARIANT}), ended([&] { rexit::verify(folder); }));
    std::optional<rexit::Bundle> bundle;
    check("open", and_of_files({REXIT_UNKNOWN_VARIANT, REXIT_BACKEND_MISSING, REXIT_BACKEND_FAILED}),
          ended([&] { bundle.emplace(folder); }));
    if (!bundle) continue;
    check("reload", and_of_files({}), ended([&] { bundle->reloaded(); }));
    rexit::Session session(*bundle);
    check("warm_up", named({REXIT_BACKEND_FAILED, REXIT_CANCELLED}), ended([&] { session.warm_up(); }));
    const rexit::Request request = rexit::Request(std::int64_t{106}).items({std::int64_t{-7}, std::int64_t{18}});
    const Ended score = ended([&] { session.score(request); }), trace = ended([&] { session.trace(request); }),
                prompt = ended([&] { session.prompt(request); });
    check("score", scoring, score);
    check("trace", scoring, trace);
    EXPECT_EQ(trace.text, score.text);
    check("prompt", scoring, prompt);
    EXPECT_NE(prompt.status, REXIT_BACKEND_FAILED);
    EXPECT_TRUE(prompt.status == REXIT_OK || prompt.text == score.text) << prompt.text;
  }
  EXPECT_EQ(statuses_of["open"],
            (Statuses{REXIT_OK, REXIT_NOT_FOUND, REXIT_CORRUPT, REXIT_UNSUPPORTED, REXIT_MISMATCH, REXIT_BACKEND_FAILED}));
  EXPECT_EQ(statuses_of["verify"], (Statuses{REXIT_OK, REXIT_NOT_FOUND, REXIT_CORRUPT, REXIT_UNSUPPORTED, REXIT_MISMATCH}));
  EXPECT_TRUE(statuses_of["score"].count(REXIT_CORRUPT) == 1 && statuses_of["score"].count(REXIT_TOO_LONG) == 1);
}

// What opening refuses, describing refuses too, unless it is a graph that does not load, or a text that all prompts begin with.
// Verifying finds all that describing finds, and rows.
TEST(Statuses, DescribingIsOpeningWithoutTheSegments) {
  std::size_t refused = 0, loading = 0, rows = 0;
  for (const std::string& folder : folders()) {
    SCOPED_TRACE(folder);
    const Ended described = ended([&] { rexit::variants(folder); }), opened = ended([&] { rexit::Bundle{folder}; }),
                verified = ended([&] { rexit::verify(folder); });
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

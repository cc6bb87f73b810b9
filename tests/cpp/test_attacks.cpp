// Every damaged bundle of tests/attacks.py is refused with the status and the words written beside it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "bundles.hpp"
#include "rexit/rexit.h"

namespace {

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& folder : std::filesystem::directory_iterator(bundles())) all.push_back(folder.path().filename());
  return all;
}

TEST(Attacks, AreRefused) {
  const std::vector<std::string> all = names();
  ASSERT_GT(all.size(), 90u);
  for (const std::string& name : all) {
    SCOPED_TRACE(name);
    std::ifstream expected(bundles() + "/" + name + "/expected");
    std::string status, text;
    std::getline(expected, status);
    std::getline(expected, text);
    rexit_bundle* bundle = nullptr;
    const rexit_status seen = rexit_bundle_open((bundles() + "/" + name + "/bundle").c_str(), nullptr, &bundle);
    EXPECT_EQ(status, rexit_status_name(seen)) << rexit_last_error();
    if (seen != REXIT_OK) EXPECT_NE(std::string(rexit_last_error()).find(text), std::string::npos) << rexit_last_error();
    rexit_bundle_close(bundle);
  }
}

}  // namespace

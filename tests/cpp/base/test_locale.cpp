// Numbers in JSON mean the same in a program whose locale has another decimal point.
#include <gtest/gtest.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

#include "api/request.hpp"
#include "bundles.hpp"
#include "files/json.hpp"

namespace {

class Locale : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = std::string(GetParam()) + ".UTF-8";
    folder_ = std::filesystem::temp_directory_path() / ("rexit-locale-" + name + std::to_string(std::random_device()()));
    std::filesystem::create_directories(folder_);
    const std::string command = "localedef -c -i " + std::string(GetParam()) + " -f UTF-8 " + (folder_ / name).string();
    if (std::system((command + " >/dev/null 2>&1").c_str()) != 0) GTEST_SKIP() << "localedef cannot make " << name;
    ::setenv("LOCPATH", folder_.c_str(), 1);
    if (std::setlocale(LC_ALL, name.c_str()) == nullptr) GTEST_SKIP() << "the C library does not read " << name;
  }
  void TearDown() override {
    std::setlocale(LC_ALL, "C");
    ::unsetenv("LOCPATH");
    std::filesystem::remove_all(folder_);
  }

  std::filesystem::path folder_;
};

TEST_P(Locale, OfTheProgramDoesNotChangeNumbersInJson) {
  const std::string point = std::localeconv()->decimal_point;
  ASSERT_NE(point, ".");
  const rexit::core::Bundle bundle(sound_bundle(), nullptr);
  rexit::core::Request request;
  read_request(R"({"id": 1.5, "candidates": [[1]], "deadline_ms": 2.25})", bundle, request);
  EXPECT_EQ(request.id, "1.5");
  EXPECT_EQ(request.deadline_us, 2250);

  const std::string text = R"({"a": 1.625})";
  const rexit::core::JsonDocument document(reinterpret_cast<const unsigned char*>(text.data()), text.size(), "file");
  EXPECT_EQ(document.root().at("a").finite_double(), 1.625);
  EXPECT_EQ(std::localeconv()->decimal_point, point) << "the program's locale is as before";
}

INSTANTIATE_TEST_SUITE_P(WithAnotherPoint, Locale, testing::Values("de_DE", "ps_AF"));  // a comma, and two bytes

}  // namespace

// The first segment's vector rows for a pass, and the tokens that refer to them.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "base/status.hpp"
#include "bundles.hpp"
#include "files/half.hpp"
#include "session/vector_rows.hpp"

using namespace rexit::core;

namespace {

using Ids = std::vector<std::int64_t>;

class VectorRowsTest : public testing::Test {
 protected:
  Bundle bundle{bundles() + "/sound_with_vectors/bundle", nullptr};  // `gcn` has one vector, `title:2` two of each of 20 items
  const Program& program = bundle.catalog().program;
  std::size_t width = bundle.model().hidden_size;
  std::int64_t first = program.first_vector, user = program.user_vector;
  VectorRows rows{bundle};
  Pass pass;

  void place(const Ids& ids) {
    pass = {};
    pass.tokens = ids.size();
    rows.set_inputs(ids.data(), pass);
  }
  Ids tokens() const { return {pass.token_ids, pass.token_ids + pass.tokens}; }
  std::vector<float> row(std::size_t n) const { return {pass.vectors + n * width, pass.vectors + (n + 1) * width}; }
  std::vector<float> table(const char* name, std::size_t item, std::size_t count, std::size_t j) const {
    const Safetensors file(bundle.folder().open("vectors.safetensors"));
    const Half* from = file.array<Half>(name, {20, count, width}).data + (item * count + j) * width;
    std::vector<float> values(width);
    std::transform(from, from + width, values.begin(), to_float);
    return values;
  }
};

TEST_F(VectorRowsTest, WithoutVectorsThereIsARowOfZeros) {
  place({first + 5});
  const Ids ids{1, 63, 0};
  place(ids);
  EXPECT_EQ(tokens(), ids);
  EXPECT_EQ(pass.vector_rows, 1u);
  EXPECT_EQ(row(0), std::vector<float>(width, 0.0f));
}

TEST_F(VectorRowsTest, TheUsersIsThatOfThePromptByItsIdAndByItsKey) {
  Prompt prompt;
  prompt.user_vector.resize(width);
  std::iota(prompt.user_vector.begin(), prompt.user_vector.end(), 0.5f);
  rows.begin(prompt);
  const std::int64_t key = rows.key(static_cast<std::int32_t>(user));
  EXPECT_GE(key, std::int64_t{1} << 62);
  place({first + 1, user, key, user});
  EXPECT_EQ(tokens(), (Ids{first, first + 1, first + 1, first + 1}));
  EXPECT_EQ(pass.vector_rows, 2u);
  EXPECT_EQ(row(1), prompt.user_vector);
  EXPECT_EQ(rows.key(static_cast<std::int32_t>(user - 1)), user - 1);
  EXPECT_EQ(rows.key(7), 7);
}

TEST_F(VectorRowsTest, DifferentVectorsHaveDifferentKeys) {
  Prompt prompt;
  prompt.user_vector.assign(width, 1.0f);
  std::vector<std::int64_t> keys;
  const auto add = [&] {
    rows.begin(prompt);
    keys.push_back(rows.key(static_cast<std::int32_t>(user)));
  };
  add();
  for (float& number : prompt.user_vector)
    for (const float other : {1.0000001f, -1.0f, 0.0f, -0.0f}) {
      const float before = number;
      number = other;
      add();
      number = before;
    }
  std::mt19937 random(0);
  for (int n = 0; n < 10'000; ++n) {
    std::generate(prompt.user_vector.begin(), prompt.user_vector.end(), [&] { return static_cast<float>(random() % 3); });
    add();
  }
  const std::size_t key_count = keys.size();
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::unique(keys.begin(), keys.end()) - keys.begin(), static_cast<std::ptrdiff_t>(key_count));
  prompt.user_vector.assign(width, 1.0f);
  add();
  EXPECT_TRUE(std::binary_search(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(key_count), keys.back()));
}

// Passes of all sizes over the same buffers, with ids that meet in the table of slots.
TEST_F(VectorRowsTest, AgreesWithASearchThroughTheRows) {
  std::mt19937 random(1);
  for (int n = 0; n < 500; ++n) {
    Ids ids(1 + random() % 200);
    for (std::int64_t& id : ids) id = static_cast<std::int64_t>(random()) % (random() % 2 == 0 ? user : first + 4);
    place(ids);
    Ids distinct_ids;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] < first) {
        ASSERT_EQ(pass.token_ids[t], ids[t]);
        continue;
      }
      const auto match = std::find(distinct_ids.begin(), distinct_ids.end(), ids[t]);
      ASSERT_EQ(pass.token_ids[t], first + (match - distinct_ids.begin()));
      if (match == distinct_ids.end()) distinct_ids.push_back(ids[t]);
    }
    ASSERT_EQ(pass.vector_rows, std::max<std::size_t>(1, distinct_ids.size()));
    for (std::size_t r = 0; r < distinct_ids.size(); ++r) {
      const auto id = static_cast<std::size_t>(distinct_ids[r] - first);
      ASSERT_EQ(row(r), id < 20 ? table("gcn", id, 1, 0) : table("title:2", (id - 20) / 2, 2, id % 2));
    }
  }
}

}  // namespace

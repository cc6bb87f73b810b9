// The vectors of a pass: the rows that the first segment gets, and the tokens that name them.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "prompt/prompt.hpp"

namespace rexit::core {

// Buffers are reused from pass to pass. Does nothing for bundles without vectors.
class VectorRows {
 public:
  // `bundle` must outlive the VectorRows.
  explicit VectorRows(const Bundle& bundle);

  // From now on passes are those of `prompt`, which must stay as it is until the last of them has run.
  void begin(const Prompt& prompt) noexcept;
  // For passes with up to so many vectors.
  void reserve(std::size_t count);

  // What stands for an id of the prompt where prompts are compared. Ids of items' vectors are the same for everybody; that of the
  // user's becomes 62 bits of a hash of the vector, above all ids: two of 2^31 users would be expected to share one by chance.
  std::int64_t key(std::int32_t id) const noexcept { return id == user_id_ ? user_key_ : id; }

  // Sets what the first segment reads: token_ids, vectors and vector_rows. `ids`: [pass.tokens], ids or their keys; they must
  // live as long as the pass. Rows are in the order in which ids first appear, each id once; without any it is one row of zeros.
  // Throws REXIT_CORRUPT for a vector that is not finite.
  void place(const std::int64_t* ids, Pass& pass);

  std::size_t memory() const noexcept;

 private:
  struct Slot {  // of an open-addressing table, from an id to its row
    std::int32_t id = none, row = 0;
  };
  static constexpr std::int32_t none = -1;

  Slot& slot_of(std::int32_t id, std::size_t slots) noexcept;
  void copy(std::int32_t id, float* row) const;

  const Vectors* vectors_;  // null: none
  std::int64_t first_ = 0;  // the first id that is a vector
  std::int32_t user_id_ = none;
  std::int64_t user_key_ = 0;
  const float* user_vector_ = nullptr;
  std::vector<std::int64_t> tokens_;
  std::vector<float> rows_;
  std::vector<Slot> slots_;
};

}  // namespace rexit::core

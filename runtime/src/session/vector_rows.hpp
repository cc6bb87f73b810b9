// The vectors of a pass: rows for the first segment, and tokens that refer to them.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.hpp"
#include "bundle/bundle.hpp"
#include "prompt/prompt.hpp"

namespace rexit::core {

// Passes reuse its buffers. Does nothing for bundles without vectors.
class VectorRows {
 public:
  // `bundle` must outlive the VectorRows.
  explicit VectorRows(const Bundle& bundle);

  // Selects the prompt of the next passes. It must not change until the last of them has run.
  void begin(const Prompt& prompt) noexcept;
  // Allocates memory for passes with up to `count` vectors.
  void reserve(std::size_t count);

  // The key of an id, for comparing prompts. An item's vector is the same in every prompt. The user's vector has 62 bits of its
  // hash as key, above all ids: among 2^31 users about one pair shares a key by chance.
  std::int64_t key(std::int32_t id) const noexcept { return id == user_id_ ? user_key_ : id; }

  // Sets the inputs of the first segment: token_ids, vectors and vector_rows. `ids`: [pass.tokens], ids or keys; they must
  // outlive the pass. Rows are distinct and in order of first appearance; without vectors there is a single row of zeros. Throws
  // REXIT_CORRUPT for a vector that is not finite.
  void set_inputs(const std::int64_t* ids, Pass& pass);

  std::size_t memory() const noexcept;

 private:
  // An open-addressing hash table: id to row.
  struct Slot {
    std::int32_t id = none, row = 0;
  };
  static constexpr std::int32_t none = -1;

  Slot& slot_of(std::int32_t id, std::size_t slots) noexcept;
  void copy(std::int32_t id, float* row) const;

  const Vectors* vectors_;         // null: no vectors
  std::int64_t first_vector_ = 0;  // the first id that is a vector
  std::int32_t user_id_ = none;
  std::int64_t user_key_ = 0;
  const float* user_vector_ = nullptr;
  std::vector<std::int64_t> tokens_;
  std::vector<float> rows_;
  std::vector<Slot> slots_;
};

}  // namespace rexit::core

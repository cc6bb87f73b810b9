#include "session/vector_rows.hpp"

#include <algorithm>
#include <cstring>

namespace rexit::core {
namespace {

constexpr std::uint64_t multiplier = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio: spreads consecutive ids

// Every step is a bijection in the sum and in the number, so vectors that differ in a single number never collide.
std::uint64_t hash(const std::vector<float>& vector) noexcept {
  std::uint64_t sum = vector.size();
  for (const float number : vector) {
    std::uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    sum = (sum ^ bits) * multiplier;
    sum ^= sum >> 32;
  }
  return sum;
}

}  // namespace

VectorRows::VectorRows(const Bundle& bundle) : vectors_(bundle.vectors()) {
  if (vectors_ == nullptr) return;
  first_vector_ = bundle.program().first_vector;
  user_id_ = bundle.program().user_vector;
}

void VectorRows::begin(const Prompt& prompt) noexcept {
  if (vectors_ == nullptr) return;
  user_vector_ = prompt.user_vector.data();
  constexpr std::uint64_t first_user_key = std::uint64_t{1} << 62;
  user_key_ = static_cast<std::int64_t>(first_user_key | hash(prompt.user_vector) >> 2);
}

void VectorRows::reserve(std::size_t count) {
  if (vectors_ == nullptr) return;
  rows_.resize(std::max(rows_.size(), std::max<std::size_t>(count, 1) * vectors_->width()));
}

void VectorRows::set_inputs(const std::int64_t* ids, Pass& pass) {
  pass.token_ids = ids;
  if (vectors_ == nullptr) return;
  const std::size_t width = vectors_->width();
  const auto is_vector = [this](std::int64_t id) { return id >= first_vector_; };
  const auto count = static_cast<std::size_t>(std::count_if(ids, ids + pass.tokens, is_vector));
  reserve(count);
  if (count == 0) {
    std::fill_n(rows_.begin(), width, 0.0f);
    pass.vectors = rows_.data();
    pass.vector_rows = 1;
    return;
  }
  std::size_t slots = 2;
  while (slots < 2 * count) slots *= 2;
  slots_.assign(slots, Slot{});
  tokens_.assign(ids, ids + pass.tokens);
  std::int32_t rows = 0;
  for (std::int64_t& token : tokens_) {
    if (!is_vector(token)) continue;
    const auto id = static_cast<std::int32_t>(std::min<std::int64_t>(token, user_id_));  // keys of users are above user_id_
    Slot& slot = slot_of(id, slots);
    if (slot.id == none) {
      copy(id, rows_.data() + static_cast<std::size_t>(rows) * width);
      slot = {id, rows++};
    }
    token = first_vector_ + slot.row;
  }
  pass.token_ids = tokens_.data();
  pass.vectors = rows_.data();
  pass.vector_rows = static_cast<std::size_t>(rows);
}

// The slot of `id`, or the free slot for it. `slots` is a power of two; at least half of the slots are free.
VectorRows::Slot& VectorRows::slot_of(std::int32_t id, std::size_t slots) noexcept {
  std::size_t index = static_cast<std::size_t>(static_cast<std::uint64_t>(id) * multiplier >> 32) & (slots - 1);
  while (slots_[index].id != none && slots_[index].id != id) index = (index + 1) & (slots - 1);
  return slots_[index];
}

void VectorRows::copy(std::int32_t id, float* row) const {
  if (id == user_id_) {
    std::copy_n(user_vector_, vectors_->width(), row);
  } else {
    vectors_->copy_vector(id, row);
  }
}

std::size_t VectorRows::memory() const noexcept {
  return tokens_.capacity() * sizeof(std::int64_t) + rows_.capacity() * sizeof(float) + slots_.capacity() * sizeof(Slot);
}

}  // namespace rexit::core

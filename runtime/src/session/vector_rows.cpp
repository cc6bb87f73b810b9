#include "session/vector_rows.hpp"

#include <algorithm>
#include <cstring>

namespace rexit::core {
namespace {

constexpr std::uint64_t odd = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio: spreads neighbours far apart

// Each step is a bijection of the sum so far and of the number, so vectors that differ in one number never collide.
std::uint64_t hash(const std::vector<float>& vector) noexcept {
  std::uint64_t sum = vector.size();
  for (const float number : vector) {
    std::uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    sum = (sum ^ bits) * odd;
    sum ^= sum >> 32;
  }
  return sum;
}

}  // namespace

VectorRows::VectorRows(const Bundle& bundle) : vectors_(bundle.vectors()) {
  if (vectors_ == nullptr) return;
  first_ = bundle.catalog().program.first_vector;
  user_id_ = bundle.catalog().program.user_vector;
}

void VectorRows::begin(const Prompt& prompt) noexcept {
  if (vectors_ == nullptr) return;
  user_vector_ = prompt.user_vector.data();
  constexpr std::uint64_t above = std::uint64_t{1} << 62;
  user_key_ = static_cast<std::int64_t>(above | hash(prompt.user_vector) >> 2);
}

void VectorRows::reserve(std::size_t count) {
  if (vectors_ == nullptr) return;
  rows_.resize(std::max(rows_.size(), std::max<std::size_t>(count, 1) * vectors_->width()));
}

void VectorRows::place(const std::int64_t* ids, Pass& pass) {
  pass.token_ids = ids;
  if (vectors_ == nullptr) return;
  const std::size_t width = vectors_->width();
  const auto is_vector = [this](std::int64_t id) { return id >= first_; };
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
    const auto id = static_cast<std::int32_t>(std::min<std::int64_t>(token, user_id_));  // it is the largest, and so are keys
    Slot& slot = slot_of(id, slots);
    if (slot.id == none) {
      copy(id, rows_.data() + static_cast<std::size_t>(rows) * width);
      slot = {id, rows++};
    }
    token = first_ + slot.row;
  }
  pass.token_ids = tokens_.data();
  pass.vectors = rows_.data();
  pass.vector_rows = static_cast<std::size_t>(rows);
}

// That of `id`, or the free one where it belongs. `slots` is a power of two; at least half of them are free.
VectorRows::Slot& VectorRows::slot_of(std::int32_t id, std::size_t slots) noexcept {
  std::size_t at = static_cast<std::size_t>(static_cast<std::uint64_t>(id) * odd >> 32) & (slots - 1);
  while (slots_[at].id != none && slots_[at].id != id) at = (at + 1) & (slots - 1);
  return slots_[at];
}

void VectorRows::copy(std::int32_t id, float* row) const {
  if (id == user_id_) {
    std::copy_n(user_vector_, vectors_->width(), row);
  } else {
    vectors_->take(id, row);
  }
}

std::size_t VectorRows::memory() const noexcept {
  return tokens_.capacity() * sizeof(std::int64_t) + rows_.capacity() * sizeof(float) + slots_.capacity() * sizeof(Slot);
}

}  // namespace rexit::core

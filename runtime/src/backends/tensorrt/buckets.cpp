#include "backends/tensorrt/buckets.hpp"

namespace rexit::core {
namespace {

// Padding is at most min_step - 1, and an eighth of the size where that is more.
constexpr std::size_t min_step = 32, steps_per_doubling = 8;

std::size_t round_up(std::size_t size, std::size_t limit) noexcept {
  std::size_t step = min_step;
  while (step * 2 * steps_per_doubling <= size) step *= 2;
  return std::max(size, std::min((size + step - 1) / step * step, limit));
}

}  // namespace

PassSizes bucket_of(const PassSizes& sizes, const OptimizationProfile& profile) noexcept {
  const std::size_t tokens = round_up(sizes.tokens, profile.tokens.max);
  return {tokens, round_up(sizes.prefix, profile.prefix.max), std::max(sizes.rows, std::min(tokens, profile.rows.max)),
          sizes.vectors == 0 ? 0 : round_up(sizes.vectors, profile.tokens.max)};
}

void pad_indices(const Pass& pass, const PassSizes& sizes, std::int64_t* token_ids, std::int64_t* positions, std::int64_t* groups,
                 std::int64_t* rows) noexcept {
  const auto fill = [](std::int64_t* to, const std::int64_t* from, std::size_t count, std::size_t total, std::int64_t padding) {
    std::fill(std::copy_n(from, count, to), to + total, padding);
  };
  if (token_ids != nullptr) fill(token_ids, pass.token_ids, pass.tokens, sizes.tokens, 0);
  fill(positions, pass.positions, pass.tokens, sizes.tokens, static_cast<std::int64_t>(pass.prefix));
  fill(groups, pass.groups, pass.tokens, sizes.tokens, *std::max_element(pass.groups, pass.groups + pass.tokens) + 1);
  fill(rows, pass.row_index, pass.rows, sizes.rows, 0);
}

}  // namespace rexit::core

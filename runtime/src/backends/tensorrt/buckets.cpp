#include "backends/tensorrt/buckets.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

// For slates of a few hundred tokens: coarser steps compute too much padding, with finer steps sizes rarely repeat.
constexpr std::size_t token_step = 32, row_step = 8, vector_step = 8;

std::size_t round_up(std::size_t size, std::size_t step, std::size_t limit) noexcept {
  return std::max(size, std::min((size + step - 1) / step * step, limit));
}

}  // namespace

PassSizes bucket_of(const PassSizes& sizes, std::size_t max_tokens, std::size_t max_rows) noexcept {
  return {round_up(sizes.tokens, token_step, max_tokens), sizes.prefix, round_up(sizes.rows, row_step, max_rows),
          sizes.vectors == 0 ? 0 : round_up(sizes.vectors, vector_step, max_tokens)};
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

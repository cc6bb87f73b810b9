#include "backends/tensorrt/buckets.hpp"

#include <algorithm>

namespace rexit::core {
namespace {

// A slate has a few hundred tokens: coarser steps would compute too much padding, finer ones would rarely see a size twice.
constexpr std::size_t token_step = 32, row_step = 8, vector_step = 8;

std::size_t rounded(std::size_t size, std::size_t step, std::size_t most) noexcept {
  return std::max(size, std::min((size + step - 1) / step * step, most));
}

}  // namespace

PassSizes bucket_of(const PassSizes& sizes, std::size_t max_tokens, std::size_t max_rows) noexcept {
  return {rounded(sizes.tokens, token_step, max_tokens), sizes.prefix, rounded(sizes.rows, row_step, max_rows),
          sizes.vectors == 0 ? 0 : rounded(sizes.vectors, vector_step, max_tokens)};
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

// The hidden states of a slate's candidates on their way from segment to segment.
#pragma once

#include <cstddef>
#include <vector>

#include "backends/backend.hpp"

namespace rexit::core {

// Two blocks of rows, a row per token. A segment reads its input and writes `output_`, whose rows are then the next segment's
// input:
//
//   one pass       reads input_, writes output_; the blocks swap
//   several        each reads its rows of input_, writes output_ from its start, and output_ is copied over these rows; the first
//                  segment, which reads tokens instead, fills input_ this way
//
// Between segments input_ has all rows, and move() closes the gaps of candidates that have stopped.
class HiddenStates {
 public:
  // The backend must outlive the hidden states.
  HiddenStates(const Backend& backend, std::size_t row_bytes)
      : backend_(backend), row_bytes_(row_bytes), input_(backend), output_(backend) {}

  std::size_t row_bytes() const noexcept { return row_bytes_; }
  std::size_t bytes() const noexcept { return input_.bytes() + output_.bytes(); }

  // Call before the first segment, if it takes several passes: makes room for all rows.
  void reserve(std::size_t rows) {
    if (input_.bytes() < output_.bytes()) input_.swap(output_);
    input_.reserve(rows * row_bytes_);
  }
  // A pass's input, and the memory for its output.
  const void* input(std::size_t first_row) const noexcept { return input_.data() + first_row * row_bytes_; }
  void* output(std::size_t rows) { return output_.reserve(rows * row_bytes_); }

  // Ends a segment's only pass. Call it after the last segment too, though that has no output: with two segments every slate then
  // writes the same block, and the other takes no memory.
  void take_output() noexcept { input_.swap(output_); }
  // Ends one of a segment's passes.
  void copy_output(std::size_t first_row, std::size_t rows) {
    backend_.copy(input_.data() + first_row * row_bytes_, output_.data(), rows * row_bytes_);
  }
  // Moves rows of the next segment's input.
  void move(const std::vector<RowMove>& moves) {
    if (!moves.empty()) backend_.move_rows(input_.data(), row_bytes_, moves.data(), moves.size());
  }

 private:
  const Backend& backend_;
  const std::size_t row_bytes_;
  Block input_, output_;
};

}  // namespace rexit::core

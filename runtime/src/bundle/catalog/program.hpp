// The prompt program: the template, compiled to pieces and table look-ups.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bundle/catalog/inputs.hpp"
#include "files/json.hpp"

namespace rexit::core {

using Piece = std::int32_t;

enum class OpKind {
  piece,
  user_field,
  item_field,
  user_like_rate,
  user_count,
  item_like_rate,
  item_count,
  history_recent,
  history_nearest,
  verdict,
  similar_liked,
  similar_verdict,
  similar_like_rate,
  nearest_like_rate,
  input,
};

// `kind` determines which fields an op uses; docs/format.md lists them.
struct Op {
  OpKind kind{};
  Piece piece = 0;  // of a piece op; `missing`, `empty` or `unseen` of other ops
  Piece yes = 0, no = 0;
  std::size_t field = 0;  // column in Users::fields or Items::fields; input: in Program::inputs
  std::size_t limit = 0;
  std::vector<Piece> bins;  // input: by code; empty: its codes are tokens
  std::vector<Op> entry;
};

// What exit zero reads of a candidate.
enum class NumberKind {
  gcn,
  user_count,
  user_like_rate,
  item_count,
  item_like_rate,
  similar_like_rate,
  nearest_like_rate,
  mean_cosine,
  max_cosine,
  score
};

struct Number {
  NumberKind kind;
  std::size_t limit = 0;   // of the users or items that a share counts, and of the latest likes of max_cosine
  std::size_t column = 0;  // in Items::vectors, of cosines; in Program::scores, of scores
};

// A request's, [Program::scores][candidates]; NaN: missing.
using StageScores = std::vector<std::vector<float>>;

struct Program {
  std::vector<Op> prefix, candidate;
  std::vector<Input> inputs;                                    // in the order of the ops that first place them
  std::size_t max_prefix_tokens = 0, max_candidate_tokens = 0;  // hints: the exporter's longest, at most max_positions
  std::vector<Number> numbers;                                  // columns of exit zero's input; empty: no exit zero
  std::vector<std::string> scores;                              // names of the first stages' scores that the numbers read
  std::size_t vocabulary = 0;                                   // of the tokenizer: ids of its tokens are below this
};

// The tables that a program refers to.
struct ProgramScope {
  std::size_t pieces, items, vocabulary, max_positions;  // vocabulary: the tokenizer's
  // A column in Users::fields, Items::fields and Items::vectors; throw REXIT_CORRUPT for an unknown name.
  std::function<std::size_t(const Json&)> user_field, item_field, item_vectors;
};

// Reads catalog.json's `prompt`. Throws REXIT_CORRUPT, or REXIT_UNSUPPORTED for an unknown op.
Program read_program(const Json& prompt, const ProgramScope& scope);

}  // namespace rexit::core

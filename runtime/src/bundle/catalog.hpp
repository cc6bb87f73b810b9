// catalog/: what is known about users and items, memory-mapped. Its entire contents are checked when it is opened.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle/ids.hpp"
#include "bundle/program.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

// The piece of each row for one field.
using FieldColumn = Array<std::int32_t>;

struct Users {
  Safetensors table;
  Ids ids;
  Array<Half> embeddings;       // [rows, dim]
  Array<std::int32_t> similar;  // [rows, neighbours]
  std::size_t neighbours;
  Array<std::int64_t> history_offsets;  // [rows + 1]
  Array<std::int32_t> history_items;    // ordered by (time, item row) within a user
  Array<std::int64_t> history_times;
  Array<std::uint8_t> history_liked;
  Array<std::int32_t> history_by_item;  // positions in the user's slice, ordered by (item row, position)
  std::vector<FieldColumn> fields;

  Users(const std::string& path, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim);
};

struct Items {
  Safetensors table;
  Ids ids;
  Array<Half> embeddings;              // [rows, dim]
  Array<Half> fold_in;                 // [rows, dim]
  Array<std::int64_t> rating_offsets;  // [rows + 1]
  Array<std::int64_t> rating_times;    // ascending within an item
  Array<std::int32_t> rating_likes;    // likes among an item's ratings up to and including this one
  std::vector<FieldColumn> fields;

  Items(const std::string& path, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim);
};

struct Pieces {
  Safetensors table;
  Array<std::int64_t> offsets;  // [pieces + 1]
  Array<std::int32_t> tokens;   // each below the model's vocabulary size

  Pieces(const std::string& path, std::size_t count, std::size_t vocabulary);
};

class Catalog {
 public:
  // Opens the catalog in `folder`. Tokens of pieces must be below `vocabulary`, the model's; the program's maximum lengths are
  // capped at `max_positions`.
  Catalog(const std::string& folder, std::size_t vocabulary, std::size_t max_positions);

  std::size_t bytes() const noexcept { return users.table.bytes() + items.table.bytes() + pieces.table.bytes(); }
  void check_unchanged() const {
    for (const Safetensors* table : {&users.table, &items.table, &pieces.table}) table->check_unchanged();
  }

  std::size_t dim;
  Users users;
  Items items;
  Pieces pieces;
  Program program;

 private:
  struct Description;
  explicit Catalog(const Description& description);
};

}  // namespace rexit::core

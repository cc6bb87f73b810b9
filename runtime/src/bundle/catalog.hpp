// catalog/: what is known about users and items, memory-mapped. Opening checks dtypes and shapes and reads no row, so that it
// takes as long for ten million users as for ten; a row is checked whenever it is read. Catalog::check() reads them all.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle/ids.hpp"
#include "bundle/program.hpp"
#include "bundle/tables.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

// The piece of each row for one field.
using FieldColumn = Array<std::int32_t>;

// Part of a CSR table: positions [begin, end).
struct Span {
  std::size_t begin, end;

  std::size_t size() const noexcept { return end - begin; }
};

// The users with an embedding, in lists around centres: a search looks at the `probes` lists with the nearest ones.
struct UserLists {
  std::size_t probes;
  Array<Half> centres;          // [lists, dim]
  Array<std::int64_t> offsets;  // [lists + 1], places in `users`
  Array<std::int32_t> users;    // [rows]; behind the last list those without an embedding

  UserLists(const Safetensors& table, std::size_t lists_probed, std::size_t count, std::size_t dim);

  std::size_t size() const noexcept { return offsets.size - 1; }
  Span list(const Safetensors& table, std::size_t list) const;
  Row user(const Safetensors& table, std::size_t place) const {
    return Row(below(table, "list_users", users, place, users.size));
  }
  // Every value. Throws REXIT_CORRUPT.
  void check(const Safetensors& table) const;
};

// Reading a row throws REXIT_CORRUPT where what stands there could harm; of the order within it, only check() knows.
struct Users {
  Safetensors table;
  Ids ids;
  Array<Half> embeddings;  // [rows, dim], of the users in their order or, if there are lists, in that of `lists->users`
  std::optional<UserLists> lists;
  Array<std::int32_t> similar;  // [rows, neighbours]
  std::size_t neighbours;
  Array<std::int64_t> history_offsets;  // [rows + 1]
  Array<std::int32_t> history_items;    // ordered by (time, item row) within a user
  Array<std::int64_t> history_times;
  Array<std::uint8_t> history_liked;
  Array<std::int32_t> history_by_item;  // positions in the user's slice, ordered by (item row, position)
  std::vector<FieldColumn> fields;

  // probes: none if there are no lists.
  Users(const std::string& path, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim,
        std::size_t item_count, std::optional<std::size_t> probes);

  Span history(Row user) const;
  Row history_item(std::size_t position) const { return Row(below(table, "history_items", history_items, position, items)); }
  bool liked(std::size_t position) const { return below(table, "history_liked", history_liked, position, 2) != 0; }
  // The position in `span` that history_by_item names at `place` of it.
  std::size_t by_item(Span span, std::size_t place) const {
    return span.begin + below(table, "history_by_item", history_by_item, span.begin + place, span.size());
  }
  Row similar_user(Row user, std::size_t place) const {
    return Row(below(table, "similar", similar, static_cast<std::size_t>(user) * neighbours + place, ids.size()));
  }

  std::size_t items;  // their number
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

  Items(const std::string& path, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t width);

  Span ratings(Row item) const;
  // The likes among the first `count` ratings of `span`.
  std::size_t likes(Span span, std::size_t count) const {
    return count == 0 ? 0 : below(table, "rating_likes", rating_likes, span.begin + count - 1, count + 1);
  }
  const Half* folded(Row item) const;  // [dim], finite

  std::size_t dim;
};

struct Pieces {
  Safetensors table;
  Array<std::int64_t> offsets;  // [pieces + 1]
  Array<std::int32_t> tokens;   // each below `vocabulary`
  std::size_t vocabulary;       // the model's, or where prompts have vectors the tokenizer's

  Pieces(const std::string& path, std::size_t count, std::size_t vocabulary_size);

  Span tokens_of(Piece piece) const;
  std::int32_t token(std::size_t position) const { return std::int32_t(below(table, "tokens", tokens, position, vocabulary)); }
};

class Catalog {
 public:
  // Opens the catalog in `folder`. Tokens of pieces must be below `vocabulary`, the model's; the program's maximum lengths are
  // capped at `max_positions`.
  Catalog(const std::string& folder, std::size_t vocabulary, std::size_t max_positions);

  std::size_t bytes() const noexcept { return users.table.bytes() + items.table.bytes() + pieces.table.bytes(); }
  // Every row of every table. Throws REXIT_CORRUPT for the first that is not as docs/format.md says.
  void check() const;
  void check_unchanged() const {
    for (const Safetensors* table : {&users.table, &items.table, &pieces.table}) table->check_unchanged();
  }

  // The piece of a row in a column of users.fields or items.fields.
  Piece field(const Safetensors& table, const FieldColumn& column, Row row) const {
    return Piece(below(table, "a field", column, static_cast<std::size_t>(row), pieces.offsets.size - 1));
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

// catalog/: the tables about users and items, memory-mapped. Opening checks dtypes and shapes and reads no row, so ten million
// users take as long as ten. A row is checked whenever it is read. Catalog::check() reads all rows.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle/catalog/program.hpp"
#include "bundle/catalog/tables.hpp"
#include "files/folder.hpp"
#include "files/json.hpp"
#include "files/safetensors.hpp"

namespace rexit::core {

// A field's pieces, by row.
using FieldColumn = Array<std::int32_t>;

// An encoder's vector of each item, of length 1; zeros: the item has none.
struct VectorColumn {
  std::string name;
  std::size_t width;
  Array<Half> rows;  // [rows, width]
};

// Users with an embedding, clustered into lists. A search scans the `probes` lists with the nearest centres.
struct UserLists {
  std::size_t probes;
  Array<Half> centres;          // [lists, dim]
  Array<std::int64_t> offsets;  // [lists + 1], positions in `users`
  Array<std::int32_t> users;    // [rows]; users without an embedding come after the last list

  UserLists(std::size_t probe_count, Array<Half> list_centres, Array<std::int64_t> list_offsets, Array<std::int32_t> list_users)
      : probes(probe_count), centres(list_centres), offsets(list_offsets), users(list_users) {}
  UserLists(const Safetensors& table, std::size_t probe_count, std::size_t count, std::size_t dim);

  std::size_t size() const noexcept { return offsets.size - 1; }
  Span list(const Safetensors& table, std::size_t list) const;
  Row user(const Safetensors& table, std::size_t position) const {
    return Row(index_at(table, "list_users", users, position, users.size));
  }
  // Reads every value. Throws REXIT_CORRUPT.
  void check(const Safetensors& table) const;
};

// Reading a row throws REXIT_CORRUPT for a value that could do harm. Only check() checks the order within a row.
struct Users {
  Safetensors table;
  Ids ids;
  Array<Half> embeddings;  // [rows, dim], in the order of rows or, if there are lists, of `lists->users`
  std::optional<UserLists> lists;
  Array<std::int32_t> similar;  // [rows, neighbours]
  std::size_t neighbours;
  Array<std::int64_t> history_offsets;  // [rows + 1]
  Array<std::int32_t> history_items;    // ordered by (time, item row) within a user
  Array<std::int64_t> history_times;
  Array<std::uint8_t> history_liked;
  Array<std::int32_t> history_by_item;  // positions in the user's slice, ordered by (item row, position)
  std::vector<FieldColumn> fields;

  // probes: nullopt if there are no lists.
  Users(File file, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim,
        std::size_t item_count, std::optional<std::size_t> probes);

  Span history(Row user) const;
  Row history_item(std::size_t position) const { return Row(index_at(table, "history_items", history_items, position, items)); }
  bool liked(std::size_t position) const { return index_at(table, "history_liked", history_liked, position, 2) != 0; }
  // The position in `span` of its interaction number `rank` in the order of history_by_item.
  std::size_t by_item(Span span, std::size_t rank) const {
    return span.begin + index_at(table, "history_by_item", history_by_item, span.begin + rank, span.size());
  }
  Row similar_user(Row user, std::size_t rank) const {
    return Row(index_at(table, "similar", similar, static_cast<std::size_t>(user) * neighbours + rank, ids.size()));
  }

  std::size_t items;  // the catalog's number of items
};

struct Items {
  Safetensors table;
  Ids ids;
  Array<Half> embeddings;              // [rows, dim]
  Array<Half> fold_in;                 // [rows, dim]
  Array<std::int64_t> rating_offsets;  // [rows + 1]
  Array<std::int64_t> rating_times;    // ascending within an item
  Array<std::int32_t> rating_likes;    // cumulative likes of the item, including this rating
  std::vector<FieldColumn> fields;
  std::vector<VectorColumn> vectors;  // those that exit zero reads

  Items(File file, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t width);

  Span ratings(Row item) const;
  // Likes among the first `count` ratings of `span`.
  std::size_t likes(Span span, std::size_t count) const {
    return count == 0 ? 0 : index_at(table, "rating_likes", rating_likes, span.begin + count - 1, count + 1);
  }
};

struct Pieces {
  Safetensors table;
  Array<std::int64_t> offsets;  // [pieces + 1]
  Array<std::int32_t> tokens;   // below `vocabulary`
  std::size_t vocabulary;       // of the tokenizer

  Pieces(File file, std::size_t count, std::size_t vocabulary_size);

  Span tokens_of(Piece piece) const;
  std::int32_t token(std::size_t position) const { return std::int32_t(index_at(table, "tokens", tokens, position, vocabulary)); }
};

// What retrieval compares: the catalog's embeddings or, for training prompts, those of an earlier moment.
struct Embeddings {
  const Half* users;            // [rows, dim], in the order of rows or, if there are lists, of `lists->users`
  const UserLists* lists;       // null: a search scans all users
  const Half *items, *fold_in;  // [rows, dim]
};

class Catalog {
 public:
  // Opens the catalog in a folder of `bundle`. `vocabulary` is the model's; the tokenizer's must not be larger. The
  // program's maximum lengths are capped at `max_positions`.
  Catalog(const Folder& bundle, const std::string& folder, std::size_t vocabulary, std::size_t max_positions);
  // Opens tables alone, while or after a catalog is made. `description`: what catalog.json says, or will say. Prompts may be of
  // any length.
  Catalog(const Folder& source, const std::string& folder, JsonDocument description);

  std::size_t bytes() const noexcept { return users.table.bytes() + items.table.bytes() + pieces.table.bytes(); }
  // Reads every row of every table. Throws REXIT_CORRUPT for the first that violates docs/format.md.
  void check() const;
  void check_unchanged() const {
    for (const Safetensors* table : {&users.table, &items.table, &pieces.table}) table->check_unchanged();
  }

  Embeddings embeddings() const noexcept {
    return {users.embeddings.data, users.lists ? &*users.lists : nullptr, items.embeddings.data, items.fold_in.data};
  }

  // The piece of a row in a column of users.fields or items.fields.
  Piece field(const Safetensors& table, const FieldColumn& column, Row row) const {
    return Piece(index_at(table, "a field", column, static_cast<std::size_t>(row), pieces.offsets.size - 1));
  }

  std::size_t dim;
  Users users;
  Items items;
  Pieces pieces;
  Program program;
  std::string zero;  // path in the bundle of exit zero's graph; empty: the program has no numbers

 private:
  struct Description;
  explicit Catalog(const Description& description);
};

}  // namespace rexit::core

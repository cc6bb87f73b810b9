#include "bundle/catalog.hpp"

#include <limits>

#include "base/status.hpp"
#include "bundle/tables.hpp"
#include "files/files.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_rows = std::numeric_limits<Row>::max();
constexpr char field_prefix[] = "field.";

std::vector<std::string> field_names(const Safetensors& table) {
  std::vector<std::string> names;
  for (const std::string& name : table.names())
    if (name.rfind(field_prefix, 0) == 0) names.push_back(name.substr(sizeof field_prefix - 1));
  return names;
}

std::vector<FieldColumn> field_columns(const Safetensors& table, std::size_t rows, std::size_t pieces) {
  std::vector<FieldColumn> columns;
  for (const std::string& name : field_names(table)) {
    columns.push_back(table.array<std::int32_t>(field_prefix + name, {rows}));
    check_below(table, field_prefix + name, columns.back(), pieces);
  }
  return columns;
}

std::function<std::size_t(const Json&)> field_lookup(const Safetensors& table) {
  return [names = field_names(table), path = table.path()](const Json& field) {
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == field.string()) return i;
    fail(REXIT_CORRUPT, field.where(), ": `", field.string(), "` is not a field of ", path);
  };
}

// history_by_item: within each user a permutation of the slice's positions, ordered by (item row, position).
void check_by_item(const Users& users) {
  for (std::size_t user = 0; user < users.ids.size(); ++user) {
    const auto begin = static_cast<std::size_t>(users.history_offsets[user]);
    const auto count = static_cast<std::size_t>(users.history_offsets[user + 1]) - begin;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t position = users.history_by_item[begin + i];
      if (position < 0 || static_cast<std::size_t>(position) >= count)
        fail(REXIT_CORRUPT, users.table.path(), ": `history_by_item`[", begin + i, "] is ", position, ", expected 0 to ", count,
             " exclusive");
      if (i == 0) continue;
      const auto before = static_cast<std::size_t>(users.history_by_item[begin + i - 1]),
                 here = static_cast<std::size_t>(position);
      const Row item_before = users.history_items[begin + before], item_here = users.history_items[begin + here];
      if (item_before > item_here || (item_before == item_here && before >= here))
        fail(REXIT_CORRUPT, users.table.path(), ": `history_by_item`[", begin + i, "] is out of order within user row ", user);
    }
  }
}

const std::string& id_kind(const Json& json) {
  const std::string& kind = json.string();
  if (kind != "int64" && kind != "string") fail(REXIT_CORRUPT, json.where(), ": is `", kind, "`, expected `int64` or `string`");
  return kind;
}

}  // namespace

Users::Users(const std::string& path, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim)
    : table(path),
      ids(table, id_kind, count),
      embeddings(table.array<Half>("embeddings", {count, dim})),
      similar(table.array<std::int32_t>("similar", {count, std::nullopt})),
      neighbours(count == 0 ? 0 : similar.size / count),
      history_offsets(table.array<std::int64_t>("history_offsets", {count + 1})),
      history_items(table.array<std::int32_t>("history_items", {interactions})),
      history_times(table.array<std::int64_t>("history_times", {interactions})),
      history_liked(table.array<std::uint8_t>("history_liked", {interactions})),
      history_by_item(table.array<std::int32_t>("history_by_item", {interactions})) {
  check_finite(table, "embeddings", embeddings);
  check_below(table, "similar", similar, count);
  check_offsets(table, "history_offsets", history_offsets, interactions);
  check_ascending(table, "history_times", history_times, history_offsets);
  check_below(table, "history_liked", history_liked, 2);
}

Items::Items(const std::string& path, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim)
    : table(path),
      ids(table, id_kind, count),
      embeddings(table.array<Half>("embeddings", {count, dim})),
      fold_in(table.array<Half>("fold_in", {count, dim})),
      rating_offsets(table.array<std::int64_t>("rating_offsets", {count + 1})),
      rating_times(table.array<std::int64_t>("rating_times", {interactions})),
      rating_likes(table.array<std::int32_t>("rating_likes", {interactions})) {
  check_finite(table, "embeddings", embeddings);
  check_finite(table, "fold_in", fold_in);
  check_offsets(table, "rating_offsets", rating_offsets, interactions);
  check_ascending(table, "rating_times", rating_times, rating_offsets);
  for (std::size_t item = 0; item < count; ++item)
    for (std::int64_t i = rating_offsets[item]; i < rating_offsets[item + 1]; ++i) {
      const std::int64_t likes = rating_likes[static_cast<std::size_t>(i)], ratings = i - rating_offsets[item] + 1;
      if (likes < 0 || likes > ratings)
        fail(REXIT_CORRUPT, path, ": `rating_likes`[", i, "] is ", likes, ", expected 0 to ", ratings);
    }
}

Pieces::Pieces(const std::string& path, std::size_t count, std::size_t vocabulary)
    : table(path),
      offsets(table.array<std::int64_t>("offsets", {count + 1})),
      tokens(table.array<std::int32_t>("tokens", {std::nullopt})) {
  check_offsets(table, "offsets", offsets, tokens.size);
  check_below(table, "tokens", tokens, vocabulary);
}

struct Catalog::Description {
  Description(const std::string& catalog_folder, std::size_t vocabulary_size, std::size_t positions)
      : folder(catalog_folder),
        vocabulary(vocabulary_size),
        max_positions(positions),
        document(read_json(folder + "/catalog.json", {"vectors"})),
        root(document.root()) {
    check_files(folder, read_file_sizes(root.at("files")), {"users.safetensors", "items.safetensors", "pieces.safetensors"});
  }

  std::size_t count(const char* what) const { return root.at("counts").at(what).size(0, max_rows); }
  std::size_t tokenizer() const { return root.at("tokenizer").at("vocab_size").size(1, max_rows); }
  const std::string& kind(const char* what) const { return id_kind(root.at("ids").at(what)); }

  std::string folder;
  std::size_t vocabulary, max_positions;
  JsonDocument document;
  Json root;
};

Catalog::Catalog(const std::string& folder, std::size_t vocabulary, std::size_t max_positions)
    : Catalog(Description(folder, vocabulary, max_positions)) {}

Catalog::Catalog(const Description& d)
    : dim(d.root.at("embedding").at("dim").size(1, 1 << 16)),
      users(d.folder + "/users.safetensors", d.kind("user"), d.count("users"), d.count("interactions"), dim),
      items(d.folder + "/items.safetensors", d.kind("item"), d.count("items"), d.count("interactions"), dim),
      pieces(d.folder + "/pieces.safetensors", d.count("pieces"), d.vocabulary) {
  check_below(users.table, "history_items", users.history_items, items.ids.size());
  check_by_item(users);
  const std::size_t piece_count = pieces.offsets.size - 1;
  users.fields = field_columns(users.table, users.ids.size(), piece_count);
  items.fields = field_columns(items.table, items.ids.size(), piece_count);
  program = read_program(d.root.at("prompt"), {piece_count, items.ids.size(), d.tokenizer(), d.max_positions,
                                               field_lookup(users.table), field_lookup(items.table)});
  const std::vector<std::string> needs = d.root.has("requires") ? d.root.at("requires").strings() : std::vector<std::string>();
  if (program.has_vectors() == needs.empty())
    fail(REXIT_CORRUPT, d.folder, "/catalog.json requires: ", needs.empty() ? "lacks" : "holds",
         " `vectors`, but the prompt has ", needs.empty() ? "vectors" : "none");
  if (!program.has_vectors()) return;
  // Or ids of vectors would be taken for tokens, and tokens for vectors.
  if (d.tokenizer() > d.vocabulary)
    fail(REXIT_CORRUPT, d.root.at("tokenizer").where(), ": vocab_size is ", d.tokenizer(), ", the model's is ", d.vocabulary);
  check_below(pieces.table, "tokens", pieces.tokens, d.tokenizer());
}

}  // namespace rexit::core

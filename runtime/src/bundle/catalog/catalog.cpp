#include "bundle/catalog/catalog.hpp"

#include <limits>
#include <utility>

#include "base/status.hpp"
#include "bundle/catalog/tables.hpp"
#include "files/file_list.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_rows = std::numeric_limits<Row>::max();
constexpr std::size_t max_probes = 1 << 16, max_neighbours = 1 << 16, max_width = 1 << 16;
constexpr char field_prefix[] = "field.", vector_prefix[] = "vector.", zero_name[] = "zero.onnx";

// What the tensors' names have behind a prefix.
std::vector<std::string> column_names(const Safetensors& table, const std::string& prefix) {
  std::vector<std::string> names;
  for (const std::string& name : table.names())
    if (name.rfind(prefix, 0) == 0) names.push_back(name.substr(prefix.size()));
  return names;
}

std::vector<std::string> field_names(const Safetensors& table) { return column_names(table, field_prefix); }

std::vector<VectorColumn> vector_columns(const Safetensors& table, std::size_t rows) {
  std::vector<VectorColumn> columns;
  for (const std::string& name : column_names(table, vector_prefix)) {
    const auto values = table.array<Half>(vector_prefix + name, {rows, std::nullopt});
    const std::size_t width = rows == 0 ? 0 : values.size / rows;
    if (width > max_width)
      fail(REXIT_CORRUPT, table.path(), ": `", vector_prefix, name, "` has rows of ", width, ", expected at most ", max_width);
    columns.push_back({name, width, values});
  }
  return columns;
}

std::vector<FieldColumn> field_columns(const Safetensors& table, std::size_t rows) {
  std::vector<FieldColumn> columns;
  for (const std::string& name : field_names(table)) columns.push_back(table.array<std::int32_t>(field_prefix + name, {rows}));
  return columns;
}

void check_fields(const Safetensors& table, const std::vector<FieldColumn>& columns, std::size_t pieces) {
  const std::vector<std::string> names = field_names(table);
  for (std::size_t i = 0; i < columns.size(); ++i) check_below(table, (field_prefix + names[i]).c_str(), columns[i], pieces);
}

std::function<std::size_t(const Json&)> lookup(const Safetensors& table, const char* prefix, const char* what) {
  return [names = column_names(table, prefix), path = table.path(), what](const Json& column) {
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == column.string()) return i;
    fail(REXIT_CORRUPT, column.where(), ": `", column.string(), "` is not a ", what, " of ", path);
  };
}

// history_by_item: within a user, a permutation of the slice's positions, ordered by (item row, position).
void check_by_item(const Users& users) {
  for (std::size_t user = 0; user < users.ids.size(); ++user) {
    const Span span = users.history(static_cast<Row>(user));
    for (std::size_t i = 0; i < span.size(); ++i) {
      const std::size_t here = users.by_item(span, i);
      if (i == 0) continue;
      const std::size_t before = users.by_item(span, i - 1);
      const Row item_before = users.history_items[before], item_here = users.history_items[here];
      if (item_before > item_here || (item_before == item_here && before >= here))
        fail(REXIT_CORRUPT, users.table.path(), ": `history_by_item`[", span.begin + i, "] is out of order within user row ",
             user);
    }
  }
}

const std::string& id_kind(const Json& json) {
  const std::string& kind = json.string();
  if (kind != "int64" && kind != "string") fail(REXIT_CORRUPT, json.where(), ": is `", kind, "`, expected `int64` or `string`");
  return kind;
}

}  // namespace

UserLists::UserLists(const Safetensors& table, std::size_t probe_count, std::size_t count, std::size_t dim)
    : probes(probe_count),
      centres(table.array<Half>("centres", {std::nullopt, dim})),
      offsets(table.array<std::int64_t>("list_offsets", {centres.size / dim + 1})),
      users(table.array<std::int32_t>("list_users", {count})) {}

Span UserLists::list(const Safetensors& table, std::size_t list) const {
  return slice_of(table, "list_offsets", offsets, list, users.size);
}

void UserLists::check(const Safetensors& table) const {
  check_finite(table, "centres", centres);
  std::vector<bool> is_listed(users.size);
  const auto check_user = [&](std::size_t position, bool first) {
    const auto row = static_cast<std::size_t>(user(table, position));
    if (is_listed[row]) fail(REXIT_CORRUPT, table.path(), ": `list_users`[", position, "] is ", row, ", a duplicate");
    is_listed[row] = true;
    if (!first && row < static_cast<std::size_t>(users[position - 1]))
      fail(REXIT_CORRUPT, table.path(), ": `list_users`[", position, "] is smaller than its predecessor in its list");
  };
  std::size_t end = 0;
  for (std::size_t i = 0; i <= size(); ++i) {
    // After the last list come the users in no list.
    const Span span = i < size() ? list(table, i) : Span{end, users.size};
    if (span.begin != end) fail(REXIT_CORRUPT, table.path(), ": `list_offsets`[", i, "] is ", span.begin, ", expected ", end);
    for (std::size_t position = span.begin; position < span.end; ++position) check_user(position, position == span.begin);
    end = span.end;
  }
}

Users::Users(File file, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t dim,
             std::size_t item_count, std::optional<std::size_t> probes)
    : table(std::move(file)),
      ids(table, id_kind, count),
      embeddings(table.array<Half>("embeddings", {count, dim})),
      lists(probes ? std::make_optional<UserLists>(table, *probes, count, dim) : std::nullopt),
      similar(table.array<std::int32_t>("similar", {count, std::nullopt})),
      neighbours(count == 0 ? 0 : similar.size / count),
      history_offsets(table.array<std::int64_t>("history_offsets", {count + 1})),
      history_items(table.array<std::int32_t>("history_items", {interactions})),
      history_times(table.array<std::int64_t>("history_times", {interactions})),
      history_liked(table.array<std::uint8_t>("history_liked", {interactions})),
      history_by_item(table.array<std::int32_t>("history_by_item", {interactions})),
      items(item_count) {
  if (neighbours > max_neighbours)
    fail(REXIT_CORRUPT, table.path(), ": `similar` has ", neighbours, " neighbours per user, expected at most ", max_neighbours);
}

Span Users::history(Row user) const {
  return slice_of(table, "history_offsets", history_offsets, static_cast<std::size_t>(user), history_items.size);
}

Items::Items(File file, const std::string& id_kind, std::size_t count, std::size_t interactions, std::size_t width)
    : table(std::move(file)),
      ids(table, id_kind, count),
      embeddings(table.array<Half>("embeddings", {count, width})),
      fold_in(table.array<Half>("fold_in", {count, width})),
      rating_offsets(table.array<std::int64_t>("rating_offsets", {count + 1})),
      rating_times(table.array<std::int64_t>("rating_times", {interactions})),
      rating_likes(table.array<std::int32_t>("rating_likes", {interactions})) {}

Span Items::ratings(Row item) const {
  return slice_of(table, "rating_offsets", rating_offsets, static_cast<std::size_t>(item), rating_times.size);
}

Pieces::Pieces(File file, std::size_t count, std::size_t vocabulary_size)
    : table(std::move(file)),
      offsets(table.array<std::int64_t>("offsets", {count + 1})),
      tokens(table.array<std::int32_t>("tokens", {std::nullopt})),
      vocabulary(vocabulary_size) {}

Span Pieces::tokens_of(Piece piece) const {
  return slice_of(table, "offsets", offsets, static_cast<std::size_t>(piece), tokens.size);
}

struct Catalog::Description {
  Description(const Folder& from, const std::string& catalog_folder, JsonDocument json)
      : source(from), folder(catalog_folder), document(std::move(json)), root(document.root()), vocabulary(tokenizer()) {}

  Description(const Folder& bundle, const std::string& catalog_folder, std::size_t vocabulary_size, std::size_t positions)
      : Description(bundle, catalog_folder, read_json(bundle.open(catalog_folder + "/catalog.json"), "rexit index")) {
    vocabulary = vocabulary_size;
    max_positions = positions;
    const FileList files = read_file_sizes(root.at("files"));
    check_files(source, folder + "/", files, {"users.safetensors", "items.safetensors", "pieces.safetensors"});
    const bool has_numbers = root.at("prompt").has("numbers") && !root.at("prompt").at("numbers").elements().empty();
    if (has_numbers != (files.count(zero_name) != 0))
      fail(REXIT_CORRUPT, root.at("files").where(), has_numbers ? ": does not list `" : ": lists `", zero_name,
           "`, the prompt has ", has_numbers ? "`numbers`" : "no `numbers`");
  }

  std::size_t count(const char* what) const { return root.at("counts").at(what).size(0, max_rows); }
  std::size_t tokenizer() const { return root.at("tokenizer").at("vocab_size").size(1, max_rows); }
  std::optional<std::size_t> probes() const {
    const Json embedding = root.at("embedding");
    return embedding.has("probes") ? std::make_optional(embedding.at("probes").size(1, max_probes)) : std::nullopt;
  }
  const std::string& kind(const char* what) const { return id_kind(root.at("ids").at(what)); }

  File table(const char* name) const { return source.open(folder + "/" + name + ".safetensors"); }

  const Folder& source;
  std::string folder;
  JsonDocument document;
  Json root;
  std::size_t vocabulary;  // of the model
  std::size_t max_positions = max_rows;
};

Catalog::Catalog(const Folder& bundle, const std::string& folder, std::size_t vocabulary, std::size_t max_positions)
    : Catalog(Description(bundle, folder, vocabulary, max_positions)) {}

Catalog::Catalog(const Folder& source, const std::string& folder, JsonDocument description)
    : Catalog(Description(source, folder, std::move(description))) {}

Catalog::Catalog(const Description& d)
    : dim(d.root.at("embedding").at("dim").size(1, max_width)),
      users(d.table("users"), d.kind("user"), d.count("users"), d.count("interactions"), dim, d.count("items"), d.probes()),
      items(d.table("items"), d.kind("item"), d.count("items"), d.count("interactions"), dim),
      pieces(d.table("pieces"), d.count("pieces"), d.tokenizer()) {
  const std::size_t piece_count = pieces.offsets.size - 1;
  users.fields = field_columns(users.table, users.ids.size());
  items.fields = field_columns(items.table, items.ids.size());
  items.vectors = vector_columns(items.table, items.ids.size());
  program =
      read_program(d.root.at("prompt"),
                   {piece_count, items.ids.size(), d.tokenizer(), d.max_positions, lookup(users.table, field_prefix, "field"),
                    lookup(items.table, field_prefix, "field"), lookup(items.table, vector_prefix, "column of vectors")});
  if (d.tokenizer() > d.vocabulary)
    fail(REXIT_CORRUPT, d.root.at("tokenizer").where(), ": vocab_size is ", d.tokenizer(), ", the model's is ", d.vocabulary);
  if (!program.numbers.empty()) zero = d.folder + "/" + zero_name;
}

void Catalog::check() const {
  users.ids.check();
  check_finite(users.table, "embeddings", users.embeddings);
  if (users.lists) users.lists->check(users.table);
  check_below(users.table, "similar", users.similar, users.ids.size());
  check_offsets(users.table, "history_offsets", users.history_offsets, users.history_items.size);
  check_below(users.table, "history_items", users.history_items, items.ids.size());
  check_ascending(users.table, "history_times", users.history_times, users.history_offsets);
  check_below(users.table, "history_liked", users.history_liked, 2);
  check_by_item(users);
  items.ids.check();
  check_finite(items.table, "embeddings", items.embeddings);
  check_finite(items.table, "fold_in", items.fold_in);
  for (const VectorColumn& column : items.vectors) check_finite(items.table, (vector_prefix + column.name).c_str(), column.rows);
  check_offsets(items.table, "rating_offsets", items.rating_offsets, items.rating_times.size);
  check_ascending(items.table, "rating_times", items.rating_times, items.rating_offsets);
  for (std::size_t item = 0; item < items.ids.size(); ++item) {
    const Span span = items.ratings(static_cast<Row>(item));
    for (std::size_t count = 1; count <= span.size(); ++count) items.likes(span, count);
  }
  check_offsets(pieces.table, "offsets", pieces.offsets, pieces.tokens.size);
  check_below(pieces.table, "tokens", pieces.tokens, pieces.vocabulary);
  check_fields(users.table, users.fields, pieces.offsets.size - 1);
  check_fields(items.table, items.fields, pieces.offsets.size - 1);
}

}  // namespace rexit::core

#include "bundle/program.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "base/status.hpp"

namespace rexit::core {
namespace {

enum class Place { prefix, candidate, entry };

constexpr std::size_t max_limit = 1 << 16, max_vectors = 16;  // of a list; of an item in one table
constexpr std::size_t most_ids = std::numeric_limits<std::int32_t>::max();

class Reader {
 public:
  Reader(const ProgramScope& scope, Program& program) : scope_(scope), program_(program) {}

  void vector_tables(const Json& list) {
    std::set<std::string> names{"user", "user.none"};  // tensors that are there too
    std::size_t next = scope_.vocabulary;
    const auto bounded = [&list](std::size_t ids) {
      if (ids > most_ids)
        fail(REXIT_CORRUPT, list.where(), ": the vectors need ids up to ", ids, ", expected at most ", most_ids);
      return static_cast<std::int32_t>(ids);
    };
    for (const Json& json : list.elements()) {
      const std::string& name = json.at("name").string();
      if (name.empty() || !names.insert(name).second)
        fail(REXIT_CORRUPT, json.where(), " name: `", name, "` is empty, taken or reserved");
      const std::size_t count = json.at("count").size(1, max_vectors);
      program_.vectors.push_back({name, static_cast<std::int32_t>(count), bounded(next)});
      next += scope_.items * count;
      program_.user_vector = bounded(next);
    }
  }

  std::vector<Op> ops(const Json& list, Place place) {
    std::vector<Op> all;
    for (const Json& op : list.elements()) all.push_back(read(op, place));
    return all;
  }

  // As the exporter writes them: each table is placed, so that each tensor is needed.
  void check_placed(const Json& prompt) const {
    for (std::size_t t = 0; t < program_.vectors.size(); ++t)
      if (placed_.count(t) == 0) fail(REXIT_CORRUPT, prompt.where(), " vectors: no op places `", program_.vectors[t].name, "`");
  }

  // The most vectors that these ops put into a prompt.
  std::size_t vectors(const std::vector<Op>& ops) const {
    std::size_t most = 0;
    for (const Op& op : ops) {
      if (op.kind == OpKind::item_vector) most += static_cast<std::size_t>(program_.vectors[op.field].count);
      if (op.kind == OpKind::user_vector) ++most;
      most += op.limit * vectors(op.entry);
    }
    return most;
  }

 private:
  Op read(const Json& json, Place place) {
    const std::string name = json.at("op").string();
    Op op;
    if (name == "piece") {
      op.kind = OpKind::piece;
      op.piece = piece(json, "piece");
    } else if (name == "user_field") {
      op.kind = OpKind::user_field;
      op.field = scope_.user_field(json.at("field"));
      op.piece = piece(json, "missing");
    } else if (name == "item_field") {
      op.kind = OpKind::item_field;
      op.field = scope_.item_field(json.at("field"));
      needs_item(json, name, place, true);
    } else if (name == "user_like_rate") {
      op.kind = OpKind::user_like_rate;
      op.bins = bins(json);
      op.piece = piece(json, "missing");
    } else if (name == "user_count") {
      op.kind = OpKind::user_count;
      op.bins = bins(json);
    } else if (name == "item_like_rate") {
      op.kind = OpKind::item_like_rate;
      op.bins = bins(json);
      op.piece = piece(json, "missing");
      needs_item(json, name, place, false);
    } else if (name == "item_count") {
      op.kind = OpKind::item_count;
      op.bins = bins(json);
      needs_item(json, name, place, false);
    } else if (name == "verdict") {
      op.kind = OpKind::verdict;
      if (place != Place::entry) fail(REXIT_CORRUPT, json.where(), ": `verdict` is allowed only inside an `entry`");
      op.yes = piece(json, "yes");
      op.no = piece(json, "no");
    } else if (name == "history") {
      read_history(json, place, op);
    } else if (name == "similar_liked") {
      op.kind = OpKind::similar_liked;
      read_list(json, place, op);
    } else if (name == "similar_verdict") {
      op.kind = OpKind::similar_verdict;
      op.limit = json.at("limit").size(1, max_limit);
      op.yes = piece(json, "yes");
      op.no = piece(json, "no");
      op.piece = piece(json, "unseen");
      needs_item(json, name, place, false);
    } else if (name == "similar_like_rate" || name == "nearest_like_rate") {
      op.kind = name == "similar_like_rate" ? OpKind::similar_like_rate : OpKind::nearest_like_rate;
      op.limit = json.at("limit").size(1, max_limit);
      op.bins = bins(json);
      op.piece = piece(json, "missing");
      needs_item(json, name, place, false);
    } else if (name == "item_vector") {
      op.kind = OpKind::item_vector;
      op.field = vector_table(json.at("table"));
      needs_item(json, name, place, true);
    } else if (name == "user_vector") {
      op.kind = OpKind::user_vector;
      program_.has_user_vector = true;
    } else {
      fail(REXIT_UNSUPPORTED, json.where(), ": op `", name, "`, which this version does not know");
    }
    return op;
  }

  void read_history(const Json& json, Place place, Op& op) {
    const std::string order = json.at("order").string();
    if (order == "recent") {
      op.kind = OpKind::history_recent;
    } else if (order == "nearest") {
      op.kind = OpKind::history_nearest;
      needs_item(json, "history (nearest)", place, false);
    } else {
      fail(REXIT_UNSUPPORTED, json.where(), ": order `", order, "`, expected `recent` or `nearest`");
    }
    read_list(json, place, op);
  }

  void read_list(const Json& json, Place place, Op& op) {
    if (place == Place::entry) fail(REXIT_CORRUPT, json.where(), ": a list is not allowed inside an `entry`");
    op.limit = json.at("limit").size(1, max_limit);
    op.entry = ops(json.at("entry"), Place::entry);
    if (op.entry.empty()) fail(REXIT_CORRUPT, json.where(), " entry: is empty");
    op.piece = piece(json, "empty");
  }

  // The prefix has no target item. Inside an entry only ops that refer to the entry's item are allowed.
  static void needs_item(const Json& json, const std::string& name, Place place, bool in_entry) {
    if (place == Place::candidate || (in_entry && place == Place::entry)) return;
    fail(REXIT_CORRUPT, json.where(), ": `", name, "` depends on the target item, which is not known in ",
         place == Place::prefix ? "the prefix" : "an `entry`");
  }

  std::size_t vector_table(const Json& table) {
    const std::vector<VectorTable>& all = program_.vectors;
    const auto found = std::find_if(all.begin(), all.end(), [&](const VectorTable& one) { return one.name == table.string(); });
    if (found == all.end()) fail(REXIT_CORRUPT, table.where(), ": `", table.string(), "` is not one of the prompt's `vectors`");
    placed_.insert(static_cast<std::size_t>(found - all.begin()));
    return static_cast<std::size_t>(found - all.begin());
  }

  Piece piece(const Json& json, const char* key) const { return checked(json.at(key)); }

  std::vector<Piece> bins(const Json& json) const {
    std::vector<Piece> all;
    for (const Json& bin : json.at("bins").elements()) all.push_back(checked(bin));
    if (all.empty()) fail(REXIT_CORRUPT, json.where(), " bins: is empty");
    return all;
  }

  Piece checked(const Json& value) const {
    if (scope_.pieces == 0) fail(REXIT_CORRUPT, value.where(), ": the catalog has no pieces");
    return static_cast<Piece>(value.integer(0, static_cast<std::int64_t>(scope_.pieces) - 1));
  }

  const ProgramScope& scope_;
  Program& program_;
  std::set<std::size_t> placed_;  // of program_.vectors
};

}  // namespace

Program read_program(const Json& prompt, const ProgramScope& scope) {
  Program program;
  Reader reader(scope, program);
  program.first_vector = program.user_vector = static_cast<std::int32_t>(scope.vocabulary);
  if (prompt.has("vectors")) reader.vector_tables(prompt.at("vectors"));
  program.prefix = reader.ops(prompt.at("prefix"), Place::prefix);
  program.candidate = reader.ops(prompt.at("candidate"), Place::candidate);
  reader.check_placed(prompt);
  // One long title makes the exporter record more than the model accepts, and memory is reserved by these.
  program.max_prefix_tokens = std::min(prompt.at("max_prefix_tokens").size(0, most_ids), scope.max_positions);
  program.max_candidate_tokens = std::min(prompt.at("max_candidate_tokens").size(0, most_ids), scope.max_positions);
  program.max_prefix_vectors = reader.vectors(program.prefix);
  program.max_candidate_vectors = reader.vectors(program.candidate);
  return program;
}

}  // namespace rexit::core

#include "bundle/catalog/program.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "base/status.hpp"

namespace rexit::core {
namespace {

enum class Part { prefix, candidate, entry };

constexpr std::size_t max_limit = 1000;  // of a list
constexpr std::size_t max_ids = std::numeric_limits<std::int32_t>::max();

class Reader {
 public:
  Reader(const ProgramScope& scope, Program& program) : scope_(scope), program_(program) {}

  void inputs(const Json& list) {
    for (const Json& json : list.elements()) {
      Input input(json);
      if (find_input(input.name()) != program_.inputs.end())
        fail(REXIT_CORRUPT, json.where(), " name: `", input.name(), "` is taken");
      program_.inputs.push_back(std::move(input));
    }
  }

  std::vector<Op> ops(const Json& list, Part part) {
    std::vector<Op> ops;
    for (const Json& op : list.elements()) ops.push_back(read_op(op, part));
    return ops;
  }

  void numbers(const Json& list) {
    for (const Json& json : list.elements()) {
      const Number number = read_number(json);
      for (const Number& other : program_.numbers)
        if (other.kind == number.kind && other.limit == number.limit && other.column == number.column)
          fail(REXIT_CORRUPT, json.where(), ": `", json.at("op").string(), "` appears twice");
      program_.numbers.push_back(number);
    }
  }

  // The exporter writes only inputs that some op places.
  void check_all_placed(const Json& prompt) const {
    if (placed_inputs_ < program_.inputs.size())
      fail(REXIT_CORRUPT, prompt.where(), " inputs: no op places `", program_.inputs[placed_inputs_].name(), "`");
  }

 private:
  Number read_number(const Json& json) {
    static constexpr std::pair<const char*, NumberKind> kinds[] = {{"gcn", NumberKind::gcn},
                                                                   {"user_count", NumberKind::user_count},
                                                                   {"user_like_rate", NumberKind::user_like_rate},
                                                                   {"item_count", NumberKind::item_count},
                                                                   {"item_like_rate", NumberKind::item_like_rate},
                                                                   {"similar_like_rate", NumberKind::similar_like_rate},
                                                                   {"nearest_like_rate", NumberKind::nearest_like_rate},
                                                                   {"mean_cosine", NumberKind::mean_cosine},
                                                                   {"max_cosine", NumberKind::max_cosine},
                                                                   {"score", NumberKind::score}};
    const std::string& name = json.at("op").string();
    const auto entry = std::find_if(std::begin(kinds), std::end(kinds), [&](const auto& kind) { return name == kind.first; });
    if (entry == std::end(kinds)) fail(REXIT_UNSUPPORTED, json.where(), ": op `", name, "`, which this version does not know");
    const NumberKind kind = entry->second;
    if (kind == NumberKind::score) return {kind, 0, score_column(json.at("name"))};
    const bool has_column = kind == NumberKind::mean_cosine || kind == NumberKind::max_cosine;
    const bool has_limit =
        kind == NumberKind::similar_like_rate || kind == NumberKind::nearest_like_rate || kind == NumberKind::max_cosine;
    return {kind, has_limit ? json.at("limit").size(1, max_limit) : 0, has_column ? scope_.item_vectors(json.at("column")) : 0};
  }

  std::size_t score_column(const Json& name) {
    std::vector<std::string>& names = program_.scores;
    if (name.string().empty()) fail(REXIT_CORRUPT, name.where(), ": is empty");
    const auto match = std::find(names.begin(), names.end(), name.string());
    const auto column = static_cast<std::size_t>(match - names.begin());
    if (match == names.end()) names.push_back(name.string());
    return column;
  }

  Op read_op(const Json& json, Part part) {
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
      check_item_allowed(json, name, part, true);
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
      check_item_allowed(json, name, part, false);
    } else if (name == "item_count") {
      op.kind = OpKind::item_count;
      op.bins = bins(json);
      check_item_allowed(json, name, part, false);
    } else if (name == "verdict") {
      op.kind = OpKind::verdict;
      if (part != Part::entry) fail(REXIT_CORRUPT, json.where(), ": `verdict` is allowed only inside an `entry`");
      op.yes = piece(json, "yes");
      op.no = piece(json, "no");
    } else if (name == "history") {
      read_history(json, part, op);
    } else if (name == "similar_liked") {
      op.kind = OpKind::similar_liked;
      read_list(json, part, op);
    } else if (name == "similar_verdict") {
      op.kind = OpKind::similar_verdict;
      op.limit = json.at("limit").size(1, max_limit);
      op.yes = piece(json, "yes");
      op.no = piece(json, "no");
      op.piece = piece(json, "unseen");
      check_item_allowed(json, name, part, false);
    } else if (name == "similar_like_rate" || name == "nearest_like_rate") {
      op.kind = name == "similar_like_rate" ? OpKind::similar_like_rate : OpKind::nearest_like_rate;
      op.limit = json.at("limit").size(1, max_limit);
      op.bins = bins(json);
      op.piece = piece(json, "missing");
      check_item_allowed(json, name, part, false);
    } else if (name == "input") {
      read_input(json, part, op);
    } else {
      fail(REXIT_UNSUPPORTED, json.where(), ": op `", name, "`, which this version does not know");
    }
    return op;
  }

  std::vector<Input>::const_iterator find_input(const std::string& name) const {
    return std::find_if(program_.inputs.begin(), program_.inputs.end(), [&](const Input& input) { return input.name() == name; });
  }

  void read_input(const Json& json, Part part, Op& op) {
    op.kind = OpKind::input;
    if (part == Part::entry) fail(REXIT_CORRUPT, json.where(), ": `input` is not allowed inside an `entry`");
    const std::string& name = json.at("name").string();
    const auto input = find_input(name);
    if (input == program_.inputs.end()) fail(REXIT_CORRUPT, json.where(), ": `", name, "` is not one of the prompt's `inputs`");
    op.field = static_cast<std::size_t>(input - program_.inputs.begin());
    if (op.field > placed_inputs_)
      fail(REXIT_CORRUPT, json.where(), ": places `", name, "` before `", program_.inputs[placed_inputs_].name(),
           "`, expected the order of `inputs`");
    placed_inputs_ = std::max(placed_inputs_, op.field + 1);
    if (json.has("pieces") == input->is_text())
      fail(REXIT_CORRUPT, json.where(), input->is_text() ? ": has `pieces`, but the input is a text" : ": `pieces` is missing");
    if (!input->is_text()) op.bins = pieces(json, "pieces");
    if (!input->is_text() && op.bins.size() != input->size())
      fail(REXIT_CORRUPT, json.where(), " pieces: has ", op.bins.size(), ", expected ", input->size());
    if (json.has("missing") != input->is_optional())
      fail(REXIT_CORRUPT, json.where(),
           input->is_optional() ? ": `missing` is missing, but the input is optional"
                                : ": has `missing`, but the input is required");
    if (input->is_optional()) op.piece = piece(json, "missing");
  }

  void read_history(const Json& json, Part part, Op& op) {
    const std::string order = json.at("order").string();
    if (order == "recent") {
      op.kind = OpKind::history_recent;
    } else if (order == "nearest") {
      op.kind = OpKind::history_nearest;
      check_item_allowed(json, "history (nearest)", part, false);
    } else {
      fail(REXIT_UNSUPPORTED, json.where(), ": order `", order, "`, expected `recent` or `nearest`");
    }
    read_list(json, part, op);
  }

  void read_list(const Json& json, Part part, Op& op) {
    if (part == Part::entry) fail(REXIT_CORRUPT, json.where(), ": a list is not allowed inside an `entry`");
    op.limit = json.at("limit").size(1, max_limit);
    op.entry = ops(json.at("entry"), Part::entry);
    if (op.entry.empty()) fail(REXIT_CORRUPT, json.where(), " entry: is empty");
    op.piece = piece(json, "empty");
  }

  // The prefix has no target item. An entry allows only ops that refer to the entry's own item.
  static void check_item_allowed(const Json& json, const std::string& name, Part part, bool in_entry) {
    if (part == Part::candidate || (in_entry && part == Part::entry)) return;
    fail(REXIT_CORRUPT, json.where(), ": `", name, "` depends on the target item, which is not known in ",
         part == Part::prefix ? "the prefix" : "an `entry`");
  }

  Piece piece(const Json& json, const char* key) const { return piece_at(json.at(key)); }

  std::vector<Piece> bins(const Json& json) const { return pieces(json, "bins"); }

  std::vector<Piece> pieces(const Json& json, const char* key) const {
    std::vector<Piece> pieces;
    for (const Json& value : json.at(key).elements()) pieces.push_back(piece_at(value));
    if (pieces.empty()) fail(REXIT_CORRUPT, json.where(), ' ', key, ": is empty");
    return pieces;
  }

  Piece piece_at(const Json& value) const {
    if (scope_.pieces == 0) fail(REXIT_CORRUPT, value.where(), ": the catalog has no pieces");
    return static_cast<Piece>(value.integer(0, static_cast<std::int64_t>(scope_.pieces) - 1));
  }

  const ProgramScope& scope_;
  Program& program_;
  std::size_t placed_inputs_ = 0;  // the first inputs of `program_`
};

}  // namespace

Program read_program(const Json& prompt, const ProgramScope& scope) {
  Program program;
  Reader reader(scope, program);
  program.vocabulary = scope.vocabulary;
  if (prompt.has("inputs")) reader.inputs(prompt.at("inputs"));
  program.prefix = reader.ops(prompt.at("prefix"), Part::prefix);
  program.candidate = reader.ops(prompt.at("candidate"), Part::candidate);
  reader.check_all_placed(prompt);
  if (prompt.has("numbers")) reader.numbers(prompt.at("numbers"));
  // Sessions reserve memory by these. A single long title makes the exporter record more tokens than the model accepts.
  program.max_prefix_tokens = std::min(prompt.at("max_prefix_tokens").size(0, max_ids), scope.max_positions);
  program.max_candidate_tokens = std::min(prompt.at("max_candidate_tokens").size(0, max_ids), scope.max_positions);
  return program;
}

}  // namespace rexit::core

#include "prompt/prompt.hpp"

#include <algorithm>
#include <string>

#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t most_empty = 1 << 16;

std::size_t bit_length(std::size_t n) noexcept {
  std::size_t bits = 0;
  for (; n != 0; n >>= 1) ++bits;
  return bits;
}

// How many interactions of a history of n are too old for a list of `limit`: half a list at a time, so that meanwhile the list
// only grows at its end, and the start of the user's prefix stays what the cache holds.
std::size_t dropped(std::size_t n, std::size_t limit) noexcept {
  if (n <= limit) return 0;
  const std::size_t step = std::max<std::size_t>(1, limit / 2);
  return (n - limit + step - 1) / step * step;
}

class Assembler {
 public:
  Assembler(const Catalog& catalog, Retrieval& retrieval, std::size_t limit, std::vector<std::int32_t>& tokens)
      : catalog_(catalog), retrieval_(retrieval), limit_(limit), tokens_(tokens) {}

  void prefix() {
    most_ = limit_;
    retrieval_.begin_part();
    run(catalog_.program.prefix, {0, false});
    room_ = limit_ - tokens_.size();
  }

  void candidate(Row item) {
    ++candidates_;
    empty_ = 0;
    most_ = tokens_.size() + room_;
    retrieval_.begin_part();
    run(catalog_.program.candidate, {item, false});
  }

 private:
  // `one`: the target item, or inside an entry the entry's; in the prefix no op asks for it.
  void run(const std::vector<Op>& ops, Interaction one) {
    for (const Op& op : ops) run(op, one);
  }

  void run(const Op& op, Interaction one) {
    switch (op.kind) {
      case OpKind::piece:
        return append(op.piece);
      case OpKind::user_field: {
        const std::optional<Row> user = retrieval_.query().user;
        return append(user ? catalog_.field(catalog_.users.table, catalog_.users.fields[op.field], *user) : op.piece);
      }
      case OpKind::item_field:
        return append(catalog_.field(catalog_.items.table, catalog_.items.fields[op.field], one.item));
      case OpKind::verdict:
        return append(one.liked ? op.yes : op.no);
      case OpKind::user_like_rate:
        return append(like_rate(op, retrieval_.history_likes()));
      case OpKind::user_count:
        return append(count(op, retrieval_.history().size()));
      case OpKind::item_like_rate:
        return append(like_rate(op, retrieval_.item_likes(one.item)));
      case OpKind::item_count:
        return append(count(op, retrieval_.item_likes(one.item).interactions));
      case OpKind::history_recent: {
        const std::vector<Interaction>& history = retrieval_.history();
        const std::size_t first = dropped(history.size(), op.limit);
        return entries(op, history.data() + first, history.size() - first);
      }
      case OpKind::history_nearest: {
        const std::vector<Interaction>& nearest = retrieval_.nearest(one.item, op.limit);
        return entries(op, nearest.data(), nearest.size());
      }
      case OpKind::similar_liked: {
        const std::vector<Row>& items = retrieval_.similar_liked(op.limit);
        if (items.empty()) append(op.piece);
        for (const Row item : items) run(op.entry, {item, true});
        return;
      }
      case OpKind::similar_verdict: {
        const std::vector<Row>& similar = retrieval_.similar_users();
        if (similar.empty()) append(op.piece);
        for (std::size_t i = 0; i < std::min(op.limit, similar.size()); ++i) {
          const std::optional<bool> verdict = retrieval_.verdict(similar[i], one.item);
          append(!verdict ? op.piece : *verdict ? op.yes : op.no);
        }
        return;
      }
      case OpKind::similar_like_rate: {
        const std::vector<Row>& similar = retrieval_.similar_users();
        LikeCount count{0, 0};
        for (std::size_t i = 0; i < std::min(op.limit, similar.size()); ++i)
          if (const std::optional<bool> verdict = retrieval_.verdict(similar[i], one.item)) add(count, *verdict);
        return append(like_rate(op, count));
      }
      case OpKind::nearest_like_rate: {
        LikeCount count{0, 0};
        for (const Interaction& near : retrieval_.nearest(one.item, op.limit)) add(count, near.liked);
        return append(like_rate(op, count));
      }
      case OpKind::item_vector: {
        const VectorTable& table = catalog_.program.vectors[op.field];
        make_room(static_cast<std::size_t>(table.count));
        for (std::int32_t j = 0; j < table.count; ++j) tokens_.push_back(table.first + one.item * table.count + j);
        return;
      }
      case OpKind::user_vector:
        make_room(1);
        return tokens_.push_back(catalog_.program.user_vector);
    }
  }

  static void add(LikeCount& count, bool liked) noexcept {
    ++count.interactions;
    if (liked) ++count.likes;
  }

  void entries(const Op& op, const Interaction* first, std::size_t count) {
    if (count == 0) append(op.piece);
    for (std::size_t i = 0; i < count; ++i) run(op.entry, first[i]);
  }

  static Piece count(const Op& op, std::size_t interactions) noexcept {
    return op.bins[std::min(op.bins.size() - 1, bit_length(interactions))];
  }

  static Piece like_rate(const Op& op, LikeCount count) noexcept {
    if (count.interactions == 0) return op.piece;
    return op.bins[(count.likes + 1) * op.bins.size() / (count.interactions + 2)];
  }

  void append(Piece piece) {
    const Span span = catalog_.pieces.tokens_of(piece);
    if (span.size() == 0 && ++empty_ > most_empty) too_empty();
    make_room(span.size());
    for (std::size_t i = span.begin; i < span.end; ++i) tokens_.push_back(catalog_.pieces.token(i));
  }

  void make_room(std::size_t count) const {
    if (count > most_ - tokens_.size()) too_long();
  }

  std::string part() const {
    return candidates_ == 0 ? "the prefix" : "candidate " + std::to_string(candidates_ - 1) + "'s prompt";
  }

  [[noreturn]] void too_empty() const {
    fail(REXIT_CORRUPT, "the prompt program puts more than ", most_empty, " pieces without a token into ", part());
  }

  [[noreturn]] void too_long() const {
    fail(REXIT_TOO_LONG, part(), " is longer than ", limit_, " tokens, the most that the variant takes");
  }

  const Catalog& catalog_;
  Retrieval& retrieval_;
  std::size_t candidates_ = 0;    // begun so far
  std::size_t empty_ = 0;         // pieces of the part at hand without a token: what has tokens is bounded by `most_`
  std::size_t limit_, room_ = 0;  // of a prompt; of a candidate behind the prefix
  std::size_t most_ = 0;          // what the part at hand may fill `tokens_` to
  std::vector<std::int32_t>& tokens_;
};

}  // namespace

void assemble(const Bundle& bundle, const Query& query, const Deadline& deadline, Retrieval& retrieval, Prompt& prompt) {
  const Catalog& catalog = bundle.catalog();
  retrieval.begin(query, deadline);
  if (catalog.program.has_user_vector) retrieval.user_vector(*bundle.vectors(), prompt.user_vector);
  prompt.tokens.clear();
  prompt.offsets.assign(1, 0);
  Assembler assembler(catalog, retrieval, bundle.variant().max_positions, prompt.tokens);
  assembler.prefix();
  prompt.offsets.push_back(prompt.tokens.size());
  for (const Row item : query.items) {
    deadline.check("the prompt's assembly");
    assembler.candidate(item);
    if (prompt.tokens.size() == prompt.offsets.back())
      fail(REXIT_CORRUPT, "the prompt program gives no tokens for item ", catalog.items.ids.text(item));
    prompt.offsets.push_back(prompt.tokens.size());
  }
}

}  // namespace rexit::core

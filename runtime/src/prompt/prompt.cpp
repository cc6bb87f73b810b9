#include "prompt/prompt.hpp"

#include <algorithm>
#include <string>

#include "base/status.hpp"

namespace rexit::core {

namespace {

constexpr std::size_t max_empty_pieces = 1 << 16;

std::size_t bit_length(std::size_t n) noexcept {
  std::size_t bits = 0;
  for (; n != 0; n >>= 1) ++bits;
  return bits;
}

// Index of the first interaction of a list of `limit`, in a history of n. Old interactions leave half a list at a time. In
// between the list only grows at its end, so the cached start of the user's prefix stays valid.
std::size_t list_begin(std::size_t n, std::size_t limit) noexcept {
  if (n <= limit) return 0;
  const std::size_t step = std::max<std::size_t>(1, limit / 2);
  return (n - limit + step - 1) / step * step;
}

class Assembler {
 public:
  Assembler(const Catalog& catalog, Retrieval& retrieval, std::size_t limit, std::vector<std::int32_t>& tokens)
      : catalog_(catalog), retrieval_(retrieval), limit_(limit), tokens_(tokens) {}

  void append_prefix() {
    end_limit_ = limit_;
    retrieval_.begin_part();
    run(catalog_.program.prefix, {0, false});
    candidate_limit_ = limit_ - tokens_.size();
  }

  void append_candidate(std::size_t index, Row item) {
    candidate_ = index;
    empty_pieces_ = 0;
    end_limit_ = tokens_.size() + candidate_limit_;
    retrieval_.begin_part();
    run(catalog_.program.candidate, {item, false});
  }

 private:
  // `subject`: the target item, or in an entry the entry's item. No op in the prefix reads it.
  void run(const std::vector<Op>& ops, Interaction subject) {
    for (const Op& op : ops) run(op, subject);
  }

  void run(const Op& op, Interaction subject) {
    switch (op.kind) {
      case OpKind::piece:
        return append(op.piece);
      case OpKind::user_field: {
        const std::optional<Row> user = retrieval_.query().user;
        return append(user ? catalog_.field(catalog_.users.table, catalog_.users.fields[op.field], *user) : op.piece);
      }
      case OpKind::item_field:
        return append(catalog_.field(catalog_.items.table, catalog_.items.fields[op.field], subject.item));
      case OpKind::verdict:
        return append(subject.liked ? op.yes : op.no);
      case OpKind::user_like_rate:
        return append(like_rate_bin(op, retrieval_.history_likes()));
      case OpKind::user_count:
        return append(count_bin(op, retrieval_.history().size()));
      case OpKind::item_like_rate:
        return append(like_rate_bin(op, retrieval_.item_likes(subject.item)));
      case OpKind::item_count:
        return append(count_bin(op, retrieval_.item_likes(subject.item).interactions));
      case OpKind::history_recent: {
        const std::vector<Interaction>& history = retrieval_.history();
        const std::size_t first = list_begin(history.size(), op.limit);
        return append_entries(op, history.data() + first, history.size() - first);
      }
      case OpKind::history_nearest: {
        const std::vector<Interaction>& nearest = retrieval_.nearest(subject.item, op.limit);
        return append_entries(op, nearest.data(), nearest.size());
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
          const std::optional<bool> verdict = retrieval_.verdict(similar[i], subject.item);
          append(!verdict ? op.piece : *verdict ? op.yes : op.no);
        }
        return;
      }
      case OpKind::similar_like_rate:
        return append(like_rate_bin(op, retrieval_.similar_likes(subject.item, op.limit)));
      case OpKind::nearest_like_rate:
        return append(like_rate_bin(op, retrieval_.nearest_likes(subject.item, op.limit)));
      case OpKind::input:
        return append_input(op, input(op.field));
    }
  }

  void append_entries(const Op& op, const Interaction* first, std::size_t count) {
    if (count == 0) append(op.piece);
    for (std::size_t i = 0; i < count; ++i) run(op.entry, first[i]);
  }

  const Codes& input(std::size_t index) const {
    const Query& query = retrieval_.query();
    return query.inputs[query.inputs_by_item ? candidate_.value_or(0) * catalog_.program.inputs.size() + index : index];
  }

  void append_input(const Op& op, const Codes& codes) {
    if (codes.empty()) return append(op.piece);
    if (op.bins.empty()) {
      check_fits(codes.size());
      tokens_.insert(tokens_.end(), codes.begin(), codes.end());
    }
    for (std::size_t i = 0; i < codes.size() && !op.bins.empty(); ++i) append(op.bins[static_cast<std::size_t>(codes[i])]);
  }

  static Piece count_bin(const Op& op, std::size_t interactions) noexcept {
    return op.bins[std::min(op.bins.size() - 1, bit_length(interactions))];
  }

  static Piece like_rate_bin(const Op& op, LikeCount count) noexcept {
    if (count.interactions == 0) return op.piece;
    return op.bins[(count.likes + 1) * op.bins.size() / (count.interactions + 2)];
  }

  void append(Piece piece) {
    const Span span = catalog_.pieces.tokens_of(piece);
    if (span.size() == 0 && ++empty_pieces_ > max_empty_pieces) fail_too_many_empty_pieces();
    check_fits(span.size());
    for (std::size_t i = span.begin; i < span.end; ++i) tokens_.push_back(catalog_.pieces.token(i));
  }

  void check_fits(std::size_t count) const {
    if (count > end_limit_ - tokens_.size()) fail_too_long();
  }

  std::string part_name() const { return candidate_ ? "candidate " + std::to_string(*candidate_) + "'s prompt" : "the prefix"; }

  [[noreturn]] void fail_too_many_empty_pieces() const {
    fail(REXIT_CORRUPT, "the prompt program puts more than ", max_empty_pieces, " pieces without a token into ", part_name());
  }

  [[noreturn]] void fail_too_long() const {
    fail(REXIT_TOO_LONG, part_name(), " is longer than ", limit_, " tokens, the most that the variant takes");
  }

  const Catalog& catalog_;
  Retrieval& retrieval_;
  std::optional<std::size_t> candidate_;  // the current part's; nullopt: the prefix
  std::size_t empty_pieces_ = 0;          // pieces without tokens in the current part; `end_limit_` bounds the others
  std::size_t limit_;                     // tokens of a prompt
  std::size_t candidate_limit_ = 0;       // tokens of a candidate after the prefix
  std::size_t end_limit_ = 0;             // size of `tokens_` that the current part must not exceed
  std::vector<std::int32_t>& tokens_;
};

}  // namespace

void assemble(const Bundle& bundle, const Deadline& deadline, Retrieval& retrieval, Prompt& prompt,
              const std::vector<std::uint32_t>* candidates) {
  assemble(bundle.catalog(), bundle.variant().max_positions, deadline, retrieval, prompt, candidates);
}

void assemble(const Catalog& catalog, std::size_t max_tokens, const Deadline& deadline, Retrieval& retrieval, Prompt& prompt,
              const std::vector<std::uint32_t>* candidates) {
  const std::vector<Row>& items = retrieval.items();
  prompt.tokens.clear();
  prompt.offsets.assign(1, 0);
  Assembler assembler(catalog, retrieval, max_tokens, prompt.tokens);
  assembler.append_prefix();
  prompt.offsets.push_back(prompt.tokens.size());
  const std::size_t count = candidates != nullptr ? candidates->size() : items.size();
  for (std::size_t n = 0; n < count; ++n) {
    const std::size_t i = candidates != nullptr ? (*candidates)[n] : n;
    prompt.offsets.resize(2 + i, prompt.tokens.size());  // those left out before it are empty
    deadline.check("the prompt's assembly");
    assembler.append_candidate(i, items[i]);
    if (prompt.tokens.size() == prompt.offsets.back())
      fail(REXIT_CORRUPT, "the prompt program gives no tokens for item ", catalog.items.ids.text(items[i]));
    prompt.offsets.push_back(prompt.tokens.size());
  }
  prompt.offsets.resize(2 + items.size(), prompt.tokens.size());
}

namespace {

// `part()`: names the tokens, for messages.
template <class Part>
void append(const std::int32_t* tokens, std::size_t count, std::size_t vocabulary, const Part& part,
            std::vector<std::int32_t>& to) {
  for (std::size_t i = 0; i < count; ++i)
    if (tokens[i] < 0 || static_cast<std::size_t>(tokens[i]) >= vocabulary)
      fail(REXIT_INVALID_ARGUMENT, part(), '[', i, "] is ", tokens[i], ", expected a token id from 0 to ", vocabulary - 1);
  if (count != 0) to.insert(to.end(), tokens, tokens + count);
}

}  // namespace

void assemble(const Bundle& bundle, const TokenPrompt& source, const Deadline& deadline, Prompt& prompt) {
  const std::size_t limit = bundle.variant().max_positions, vocabulary = bundle.vocabulary(), prefix = source.prefix.size();
  prompt.tokens.clear();
  prompt.offsets.assign(1, 0);
  if (bundle.model().causal == 0 && prefix != 0)
    fail(REXIT_INVALID_ARGUMENT, "prefix has ", prefix,
         " tokens, expected none: the model is an encoder, whose candidates are whole pairs");
  if (prefix >= limit)
    fail(REXIT_TOO_LONG, "prefix has ", prefix, " tokens, which leaves no room for a candidate in ", limit,
         ", the most that the variant takes");
  append(source.prefix.data(), prefix, vocabulary, [] { return std::string("prefix"); }, prompt.tokens);
  prompt.offsets.push_back(prompt.tokens.size());
  const std::int32_t* next = source.candidates.data();
  for (std::size_t i = 0; i < source.counts.size(); ++i) {
    deadline.check("the prompt's assembly");
    const std::size_t count = source.counts[i];
    const auto part = [i] { return "candidates[" + std::to_string(i) + "]"; };
    if (count == 0) fail(REXIT_INVALID_ARGUMENT, part(), " has no tokens, expected at least one");
    if (count > limit - prefix)
      fail(REXIT_TOO_LONG, part(), " has ", count, " tokens behind a prefix of ", prefix, ", the variant takes at most ", limit,
           " together");
    append(next, count, vocabulary, part, prompt.tokens);
    next += count;
    prompt.offsets.push_back(prompt.tokens.size());
  }
}

}  // namespace rexit::core

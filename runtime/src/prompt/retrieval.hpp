// Retrieval: the interactions and neighbours in a prompt, from the catalog's tables and the request. It reads nothing with time
// >= as_of.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "bundle/catalog/catalog.hpp"
#include "prompt/nearest.hpp"

namespace rexit::core {

struct Interaction {
  Row item;
  bool liked;
};

// A request with its ids resolved to rows.
struct Query {
  std::optional<Row> user;  // nullopt: not in the catalog
  std::vector<Row> items;
  std::size_t retrieve = 0;         // this many items, which Retrieval chooses, in place of `items`; 0: none
  std::vector<Interaction> recent;  // newer than the catalog's interactions, oldest first
  std::optional<std::int64_t> as_of;
  std::vector<Codes> inputs;  // [Program::inputs] or, if they differ behind the prefix, [items, Program::inputs]
  bool inputs_by_item = false;
};

struct LikeCount {
  std::size_t interactions, likes;
};

// A request's view of the catalog. Lists are computed on first use and valid until the next begin(). Functions that read the
// catalog throw REXIT_CORRUPT for an invalid row.
class Retrieval {
 public:
  // `catalog` must outlive the Retrieval.
  explicit Retrieval(const Catalog& catalog) : catalog_(catalog), own_(catalog.embeddings()) {}

  // `query` and `deadline` must outlive all calls until the next begin(). This and all functions below except item_likes() count
  // the rows they read, and check the deadline every few thousand rows: REXIT_DEADLINE, REXIT_CANCELLED.
  void begin(const Query& query, const Deadline& deadline) { begin(query, deadline, &own_); }
  // The same with other embeddings, which must outlive these calls; null: there are none yet, and nothing is near to anything.
  void begin(const Query& query, const Deadline& deadline, const Embeddings* embeddings);
  // Call before each part of the prompt. A part may read all users or all items, and `max_extra_rows` more rows, and throws
  // REXIT_CORRUPT beyond that. No sensible catalog needs as many, and a malicious one cannot keep a request busy.
  void begin_part() noexcept { rows_read_ = 0; }
  static constexpr std::size_t max_extra_rows = std::size_t{1} << 24;

  const Query& query() const noexcept { return *query_; }
  // The candidates: the query's items, or those that it retrieves. These are the items with the largest user_product(), largest
  // first, ties by row; without items of the history and those with a zero vector. None if the user has no such product.
  const std::vector<Row>& items() const noexcept { return items_; }
  // Whether the user has an embedding: what is liked in history() has one.
  bool has_embedding() { return fold_in(); }
  const std::vector<Interaction>& history() const noexcept { return history_; }  // oldest first
  LikeCount history_likes();
  LikeCount item_likes(Row item) const;
  LikeCount similar_likes(Row item, std::size_t limit);    // by the nearest similar users
  LikeCount nearest_likes(Row target, std::size_t limit);  // of nearest(target, limit)

  // Nearest first. Empty for a user without history. A zero vector has no neighbours and is no neighbour, here and in nearest().
  const std::vector<Row>& similar_users();
  // Items that similar users liked and that are not in this user's history.
  const std::vector<Row>& similar_liked(std::size_t limit);
  // Items of the history nearest to `target`, nearest first, without `target` itself.
  const std::vector<Interaction>& nearest(Row target, std::size_t limit);
  // A user's latest visible verdict on an item.
  std::optional<bool> verdict(Row user, Row item);

  // What exit zero reads: [items(), program.numbers]; NaN where there is nothing to read. `scores`: the request's.
  void numbers(const StageScores& scores, std::vector<float>& out);

  std::size_t memory() const noexcept;

 private:
  struct Slice {
    std::size_t begin, visible;
  };
  struct LikedVectors {  // of the query's likes, in a column of vectors; valid once `ready`
    bool ready = false;
    std::vector<float> mean;          // its direction
    double mean_length = 0;           // 0: no like has a vector
    std::vector<Row> latest;          // liked items that have a vector, latest first
    std::vector<std::size_t> places;  // [latest], of their latest likes among all likes that have one
    std::vector<float> vectors;       // [latest, width]
  };
  struct SeenItem {  // a distinct item of the history
    Row item;
    std::size_t position;  // of its latest interaction
    bool liked;
  };

  Slice slice(Row user) const;
  void count_rows(std::size_t rows) {
    const std::size_t before = rows_read_;
    rows_read_ += rows;
    if (before / rows_per_check != rows_read_ / rows_per_check) check_limits();
  }
  void check_limits() const;
  // Counts the rows of `table` that it reads.
  template <class Entry>
  void rank(const Half* table, Span rows, NearestRows& nearest, const Entry& entry) {
    nearest.add(query_vector_, table, rows, entry, [this](std::size_t count) { count_rows(count); });
  }
  void search_similar();
  void retrieve(std::size_t count);
  bool has_met(Row item) const noexcept;
  float number(const Number& number, Row item, LikeCount history);
  float user_product(Row item);
  float cosine(const Number& number, Row item);
  const LikedVectors& liked_vectors(std::size_t column);
  void select_lists(const UserLists& lists);
  template <class RowOf>
  std::size_t sum_liked(const RowOf& row_of, std::size_t width);
  bool fold_in();
  bool compute_fold_in();
  void collect_seen_items();
  void rank_seen_items(Row target);

  static constexpr std::size_t rows_per_check = 4096;  // a few hundred microseconds between checks of the deadline

  const Half* item_row(const Half* table, Row item) const noexcept {
    return table + static_cast<std::size_t>(item) * catalog_.dim;
  }
  const Half* finite_item_row(const Half* table, Row item, const char* name) const;
  const Half* vector_row(const VectorColumn& column, Row item) const;

  const Catalog& catalog_;
  const Embeddings own_;
  const Embeddings* embeddings_ = nullptr;  // of the query
  const Query* query_ = nullptr;
  const Deadline* deadline_ = nullptr;
  std::size_t rows_read_ = 0;  // in the current part
  std::vector<Interaction> history_;
  std::vector<Row> items_;

  bool similar_ready_ = false, seen_items_ready_ = false, seen_embeddings_ready_ = false;
  std::optional<bool> folded_in_;  // the result of fold_in(), once computed
  std::vector<Row> similar_;
  std::vector<SeenItem> seen_items_;              // ascending by item
  std::vector<std::size_t> seen_with_embedding_;  // those of them whose embedding is not zero
  std::vector<float> seen_embeddings_;            // [seen_with_embedding_, dim]
  std::vector<Row> similar_liked_;
  std::vector<Row> similar_liked_sorted_;  // the same items, ascending
  std::vector<Interaction> nearest_;
  std::vector<float> target_;
  std::vector<double> liked_sum_;
  std::vector<LikedVectors> liked_vectors_;  // by column of the items' vectors
  std::vector<float> query_vector_;
  double query_length_ = 0;
  std::vector<double> similarities_;  // of seen_items_, or of the latest likes, to a target
  std::optional<Row> ranked_for_;     // the target of item_ranking_
  NearestRows nearest_rows_, lists_;
  std::vector<Ranked> item_ranking_;
};

}  // namespace rexit::core

// Which interactions and neighbours a prompt tells about. Everything comes from the catalog's tables and the request; nothing
// with time >= as_of is ever looked at.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "bundle/catalog.hpp"
#include "bundle/vectors.hpp"

namespace rexit::core {

struct Interaction {
  Row item;
  bool liked;
};

// A request with its ids resolved to rows.
struct Query {
  std::optional<Row> user;  // none: a user the catalog does not hold
  std::vector<Row> items;
  std::vector<Interaction> recent;  // newer than the catalog's, oldest first
  std::optional<std::int64_t> as_of;
};

struct LikeCount {
  std::size_t interactions, likes;
};

// One request's view of the catalog. Lists are computed when first asked for and valid until the next begin(). All that read the
// catalog throw REXIT_CORRUPT for a row that is not what it must be.
class Retrieval {
 public:
  // `catalog` must outlive the Retrieval.
  explicit Retrieval(const Catalog& catalog) : catalog_(catalog) {}

  // Both must live until the next begin(). From then on everything below but item_likes() counts the rows it looks at, and throws
  // REXIT_DEADLINE and REXIT_CANCELLED between some thousand of them.
  void begin(const Query& query, const Deadline& deadline);
  // To be called before each part of the prompt, which may look at all users and `most_rows` rows besides: no catalog that makes
  // sense needs as many, and one that is made for it cannot keep a request busy. REXIT_CORRUPT beyond that.
  void begin_part() noexcept { rows_ = 0; }
  static constexpr std::size_t most_rows = std::size_t{1} << 24;

  const Query& query() const noexcept { return *query_; }
  const std::vector<Interaction>& history() const noexcept { return history_; }  // oldest first
  LikeCount history_likes();
  LikeCount item_likes(Row item) const;

  // Nearest first; none where nothing is known of the user. A zero vector has no neighbours and is none, here and in nearest().
  const std::vector<Row>& similar_users();
  // Items the similar users liked and this user has not met.
  const std::vector<Row>& similar_liked(std::size_t limit);
  // The history's items nearest to `target`, nearest first; `target` itself is left out.
  const std::vector<Interaction>& nearest(Row target, std::size_t limit);
  // A user's latest visible verdict on an item.
  std::optional<bool> verdict(Row user, Row item);

  // The mean over what `vectors` has for the items that this user liked, as often as they were, or what it has for none: [H].
  // Throws REXIT_CORRUPT if one of them is not finite.
  void user_vector(const Vectors& vectors, std::vector<float>& out);

  std::size_t memory() const noexcept;

 private:
  struct Slice {
    std::size_t begin, visible;
  };
  struct Met {  // an item of the history, once, with its latest place and verdict
    Row item;
    std::size_t place;
    bool liked;
  };

  Slice slice(Row user) const;
  void look_at(std::size_t rows) {
    const std::size_t before = rows_;
    rows_ += rows;
    if (before / between_checks != rows_ / between_checks) check_rows();
  }
  void check_rows() const;
  void search_similar();
  void find_lists(const UserLists& lists);
  template <class RowOf>
  std::size_t sum_liked(const RowOf& row_of, std::size_t width);
  bool fold_in();
  void collect_met();

  static constexpr std::size_t between_checks = 4096;  // of the deadline, in rows: some hundred microseconds

  const Catalog& catalog_;
  const Query* query_ = nullptr;
  const Deadline* deadline_ = nullptr;
  std::size_t rows_ = 0;  // looked at for the part at hand
  std::vector<Interaction> history_;

  bool similar_known_ = false, met_known_ = false, embeddings_known_ = false;
  std::vector<Row> similar_;
  std::vector<Met> met_;                        // ascending by item
  std::vector<float> met_embeddings_;           // [met, dim]
  std::vector<Row> liked_by_similar_, sorted_;  // the same, ascending
  std::vector<Interaction> nearest_;
  std::vector<float> target_;
  std::vector<double> liked_sum_;
  std::vector<float> query_vector_, other_;
  std::vector<std::pair<double, std::size_t>> ranking_, lists_;
};

}  // namespace rexit::core

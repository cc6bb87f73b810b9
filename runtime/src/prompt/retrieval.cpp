#include "prompt/retrieval.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "base/status.hpp"
#include "files/half.hpp"
#include "kernels/table.hpp"

namespace rexit::core {
namespace {

// Products of halves are exact in float32 and their sums in float64, so the order of summation does not change the result.
double dot(const float* a, const float* b, std::size_t dim) {
  double product = 0;
  kernels::table().inner_products(a, b, 1, dim, &product);
  return product;
}

void add(LikeCount& count, bool liked) noexcept {
  ++count.interactions;
  if (liked) ++count.likes;
}

float like_rate(LikeCount count) noexcept {
  if (count.interactions == 0) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>((static_cast<double>(count.likes) + 1) / (static_cast<double>(count.interactions) + 2));
}

}  // namespace

void Retrieval::begin(const Query& query, const Deadline& deadline, const Embeddings* embeddings) {
  query_ = &query;
  embeddings_ = embeddings;
  deadline_ = &deadline;
  rows_read_ = 0;
  similar_ready_ = seen_items_ready_ = seen_embeddings_ready_ = false;
  folded_in_.reset();
  ranked_for_.reset();
  liked_vectors_.resize(catalog_.items.vectors.size());
  for (LikedVectors& liked : liked_vectors_) liked.ready = false;
  history_.clear();
  if (query.user) {
    const Slice history = slice(*query.user);
    for (std::size_t i = history.begin; i < history.begin + history.visible; ++i)
      history_.push_back({catalog_.users.history_item(i), catalog_.users.liked(i)});
  }
  history_.insert(history_.end(), query.recent.begin(), query.recent.end());
  if (query.retrieve == 0)
    items_ = query.items;
  else
    retrieve(query.retrieve);
}

Retrieval::Slice Retrieval::slice(Row user) const {
  const Users& users = catalog_.users;
  const auto [begin, end] = users.history(user);
  if (!query_->as_of) return {begin, end - begin};
  const std::int64_t* times = users.history_times.data;
  return {begin, static_cast<std::size_t>(std::lower_bound(times + begin, times + end, *query_->as_of) - (times + begin))};
}

void Retrieval::check_limits() const {
  deadline_->check("retrieval");
  const std::size_t limit = std::max(catalog_.users.ids.size(), catalog_.items.ids.size()) + max_extra_rows;
  if (rows_read_ > limit)
    fail(REXIT_CORRUPT, catalog_.users.table.path(), ": a part of the prompt reads more than ", limit,
         " rows of the catalog, the limit");
}

const Half* Retrieval::finite_item_row(const Half* table, Row item, const char* name) const {
  const Half* row = item_row(table, item);
  if (!all_finite(row, catalog_.dim))
    fail(REXIT_CORRUPT, catalog_.items.table.path(), ": `", name, "` of item row ", item, " is not finite");
  return row;
}

const Half* Retrieval::vector_row(const VectorColumn& column, Row item) const {
  const Half* row = column.rows.data + static_cast<std::size_t>(item) * column.width;
  if (!all_finite(row, column.width))
    fail(REXIT_CORRUPT, catalog_.items.table.path(), ": `vector.", column.name, "` of item row ", item, " is not finite");
  return row;
}

LikeCount Retrieval::history_likes() {
  count_rows(history_.size());
  std::size_t likes = 0;
  for (const Interaction& interaction : history_) likes += interaction.liked ? 1 : 0;
  return {history_.size(), likes};
}

LikeCount Retrieval::item_likes(Row item) const {
  const Items& items = catalog_.items;
  const Span span = items.ratings(item);
  std::size_t visible = span.size();
  if (query_->as_of) {
    const std::int64_t* times = items.rating_times.data + span.begin;
    visible = static_cast<std::size_t>(std::lower_bound(times, times + span.size(), *query_->as_of) - times);
  }
  return {visible, items.likes(span, visible)};
}

LikeCount Retrieval::similar_likes(Row item, std::size_t limit) {
  const std::vector<Row>& similar = similar_users();
  LikeCount count{0, 0};
  for (std::size_t i = 0; i < std::min(limit, similar.size()); ++i)
    if (const std::optional<bool> liked = verdict(similar[i], item)) add(count, *liked);
  return count;
}

LikeCount Retrieval::nearest_likes(Row target, std::size_t limit) {
  LikeCount count{0, 0};
  for (const Interaction& neighbour : nearest(target, limit)) add(count, neighbour.liked);
  return count;
}

const std::vector<Row>& Retrieval::similar_users() {
  if (similar_ready_) return similar_;
  similar_ready_ = true;
  similar_.clear();
  const Users& users = catalog_.users;
  if (embeddings_ == nullptr) return similar_;
  if (query_->user && query_->recent.empty() && !query_->as_of) {
    count_rows(users.neighbours);
    for (std::size_t i = 0; i < users.neighbours; ++i) {
      const Row other = users.similar_user(*query_->user, i);
      if (other != *query_->user) similar_.push_back(other);  // the user's own row means: no neighbour
    }
  } else {
    search_similar();
  }
  return similar_;
}

// Sums `row_of(item)`, [width], over the history's liked items into liked_sum_, and returns their number. Sums of halves are
// exact in float64.
template <class RowOf>
std::size_t Retrieval::sum_liked(const RowOf& row_of, std::size_t width) {
  std::size_t likes = 0;
  liked_sum_.assign(width, 0.0);
  for (const Interaction& interaction : history_) {
    if (!interaction.liked) continue;
    ++likes;
    count_rows(1);
    const Half* row = row_of(interaction.item);
    for (std::size_t i = 0; i < width; ++i) liked_sum_[i] += static_cast<double>(to_float(row[i]));
  }
  return likes;
}

// Sets query_vector_ to the direction that LightGCN would propagate to the user from the liked items. Returns false if there is
// none.
bool Retrieval::fold_in() {
  if (!folded_in_) folded_in_ = compute_fold_in();
  return *folded_in_;
}

bool Retrieval::compute_fold_in() {
  if (embeddings_ == nullptr) return false;
  sum_liked([&](Row item) { return finite_item_row(embeddings_->fold_in, item, "fold_in"); }, catalog_.dim);
  query_length_ = set_direction(liked_sum_, query_vector_);
  return query_length_ != 0;
}

const Retrieval::LikedVectors& Retrieval::liked_vectors(std::size_t index) {
  LikedVectors& liked = liked_vectors_[index];
  if (liked.ready) return liked;
  const VectorColumn& column = catalog_.items.vectors[index];
  sum_liked([&](Row item) { return vector_row(column, item); }, column.width);
  liked.mean_length = set_direction(liked_sum_, liked.mean);
  std::size_t limit = 0;
  for (const Number& number : catalog_.program.numbers)
    if (number.kind == NumberKind::max_cosine && number.column == index) limit = std::max(limit, number.limit);
  liked.latest.clear();
  liked.places.clear();
  liked.vectors.clear();
  std::size_t place = 0;
  for (auto interaction = history_.rbegin(); interaction != history_.rend() && place < limit; ++interaction) {
    if (!interaction->liked) continue;
    count_rows(1);
    const Half* row = vector_row(column, interaction->item);
    if (is_zero_vector(row, column.width)) continue;
    ++place;
    if (std::find(liked.latest.begin(), liked.latest.end(), interaction->item) != liked.latest.end()) continue;
    liked.latest.push_back(interaction->item);
    liked.places.push_back(place - 1);
    std::transform(row, row + column.width, std::back_inserter(liked.vectors), to_float);
  }
  liked.ready = true;
  return liked;
}

// Of the item's vector with the mean of those that the user liked, or the largest with one of the latest of them.
float Retrieval::cosine(const Number& number, Row item) {
  const VectorColumn& column = catalog_.items.vectors[number.column];
  const Half* row = vector_row(column, item);
  const LikedVectors& liked = liked_vectors(number.column);
  if (is_zero_vector(row, column.width)) return std::numeric_limits<float>::quiet_NaN();
  target_.resize(column.width);
  std::transform(row, row + column.width, target_.begin(), to_float);
  if (number.kind == NumberKind::mean_cosine)
    return liked.mean_length == 0 ? std::numeric_limits<float>::quiet_NaN()
                                  : static_cast<float>(dot(liked.mean.data(), target_.data(), column.width) / liked.mean_length);
  const auto end = std::lower_bound(liked.places.begin(), liked.places.end(), number.limit);
  const auto count = static_cast<std::size_t>(end - liked.places.begin());
  similarities_.resize(count);
  kernels::table().inner_products(target_.data(), liked.vectors.data(), count, column.width, similarities_.data());
  double largest = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < count; ++i)
    if (liked.latest[i] != item && !(similarities_[i] <= largest)) largest = similarities_[i];
  return static_cast<float>(largest);
}

// The product of the item's embedding and the user's, whose length is made 1.
float Retrieval::user_product(Row item) {
  if (!fold_in() || is_zero_vector(item_row(embeddings_->items, item), catalog_.dim))
    return std::numeric_limits<float>::quiet_NaN();
  double product = 0;
  half_products(query_vector_, finite_item_row(embeddings_->items, item, "embeddings"), 1, &product);
  return static_cast<float>(product / query_length_);
}

float Retrieval::number(const Number& number, Row item, LikeCount history) {
  switch (number.kind) {
    case NumberKind::gcn:
      return user_product(item);
    case NumberKind::user_count:
      return static_cast<float>(history.interactions);
    case NumberKind::user_like_rate:
      return like_rate(history);
    case NumberKind::item_count:
      return static_cast<float>(item_likes(item).interactions);
    case NumberKind::item_like_rate:
      return like_rate(item_likes(item));
    case NumberKind::similar_like_rate:
      return like_rate(similar_likes(item, number.limit));
    case NumberKind::nearest_like_rate:
      return like_rate(nearest_likes(item, number.limit));
    case NumberKind::mean_cosine:
    case NumberKind::max_cosine:
      return cosine(number, item);
    case NumberKind::score:
      break;
  }
  return 0;
}

void Retrieval::numbers(const StageScores& scores, std::vector<float>& out) {
  const std::vector<Number>& kinds = catalog_.program.numbers;
  out.clear();
  const LikeCount history = history_likes();
  for (std::size_t i = 0; i < items_.size(); ++i) {
    deadline_->check("exit zero's numbers");  // a candidate may read fewer rows than count_rows() checks it by
    begin_part();
    for (const Number& kind : kinds)
      out.push_back(kind.kind == NumberKind::score ? scores[kind.column][i] : number(kind, items_[i], history));
  }
}

// Fills lists_ with the nearest lists. It reads all offsets, so it refuses overlapping lists, and no search reads more than all
// users.
void Retrieval::select_lists(const UserLists& lists) {
  const Safetensors& table = catalog_.users.table;
  const Half* centres = lists.centres.data;
  for (std::size_t list = 0; list < lists.size(); ++list) lists.list(table, list);
  lists_.begin(lists.probes);
  rank(centres, {0, lists.size()}, lists_, [&](std::size_t list) {
    if (!all_finite(centres + list * catalog_.dim, catalog_.dim))
      fail(REXIT_CORRUPT, table.path(), ": `centres` of list ", list, " is not finite");
    return std::optional(list);
  });
}

void Retrieval::search_similar() {
  check_limits();  // with few users, count_rows() would not check the deadline
  if (!fold_in()) return;
  const Users& users = catalog_.users;
  const std::size_t dim = catalog_.dim;
  const UserLists* lists = embeddings_->lists;
  nearest_rows_.begin(users.neighbours);
  const auto search = [&](Span span) {
    rank(embeddings_->users, span, nearest_rows_, [&](std::size_t position) -> std::optional<std::size_t> {
      const std::size_t user = lists == nullptr ? position : static_cast<std::size_t>(lists->user(users.table, position));
      const Half* embedding = embeddings_->users + position * dim;
      if ((query_->user && static_cast<std::size_t>(*query_->user) == user) || is_zero_vector(embedding, dim)) return {};
      if (!all_finite(embedding, dim))
        fail(REXIT_CORRUPT, users.table.path(), ": `embeddings` of user row ", user, " is not finite");
      return user;
    });
  };
  if (lists == nullptr) {
    search({0, users.ids.size()});
  } else {
    select_lists(*lists);
    for (const Ranked& list : lists_.found()) search(lists->list(users.table, list.second));
  }
  for (const auto& [product, user] : nearest_rows_.sorted()) similar_.push_back(static_cast<Row>(user));
}

void Retrieval::retrieve(std::size_t count) {
  items_.clear();
  check_limits();
  if (!fold_in()) return;
  collect_seen_items();
  nearest_rows_.begin(count);
  rank(embeddings_->items, {0, catalog_.items.ids.size()}, nearest_rows_, [&](std::size_t row) -> std::optional<std::size_t> {
    const Row item = static_cast<Row>(row);
    if (has_met(item) || is_zero_vector(item_row(embeddings_->items, item), catalog_.dim)) return {};
    finite_item_row(embeddings_->items, item, "embeddings");
    return row;
  });
  for (const auto& [product, row] : nearest_rows_.sorted()) items_.push_back(static_cast<Row>(row));
}

void Retrieval::collect_seen_items() {
  if (seen_items_ready_) return;
  seen_items_ready_ = true;
  count_rows(history_.size());
  seen_items_.clear();
  for (std::size_t i = 0; i < history_.size(); ++i) seen_items_.push_back({history_[i].item, i, history_[i].liked});
  std::sort(seen_items_.begin(), seen_items_.end(),
            [](const SeenItem& a, const SeenItem& b) { return a.item != b.item ? a.item < b.item : a.position > b.position; });
  seen_items_.erase(
      std::unique(seen_items_.begin(), seen_items_.end(), [](const SeenItem& a, const SeenItem& b) { return a.item == b.item; }),
      seen_items_.end());
}

// Call after collect_seen_items().
bool Retrieval::has_met(Row item) const noexcept {
  return std::binary_search(seen_items_.begin(), seen_items_.end(), SeenItem{item, 0, false},
                            [](const SeenItem& a, const SeenItem& b) { return a.item < b.item; });
}

const std::vector<Row>& Retrieval::similar_liked(std::size_t limit) {
  similar_liked_.clear();
  similar_liked_sorted_.clear();
  const std::vector<Row>& similar = similar_users();
  if (similar.empty() || limit == 0) return similar_liked_;
  collect_seen_items();
  const std::size_t max_per_user = (limit + similar.size() - 1) / similar.size();
  for (const Row user : similar) {
    count_rows(1);
    const Slice history = slice(user);
    std::size_t count = 0;
    for (std::size_t i = history.begin + history.visible; i-- > history.begin && count < max_per_user;) {
      count_rows(1);
      const Row item = catalog_.users.history_item(i);
      if (!catalog_.users.liked(i) || has_met(item)) continue;
      const auto place = std::lower_bound(similar_liked_sorted_.begin(), similar_liked_sorted_.end(), item);
      if (place != similar_liked_sorted_.end() && *place == item) continue;
      similar_liked_sorted_.insert(place, item);
      similar_liked_.push_back(item);
      if (similar_liked_.size() == limit) return similar_liked_;
      ++count;
    }
  }
  return similar_liked_;
}

const std::vector<Interaction>& Retrieval::nearest(Row target, std::size_t limit) {
  nearest_.clear();
  if (embeddings_ == nullptr || is_zero_vector(item_row(embeddings_->items, target), catalog_.dim)) return nearest_;
  collect_seen_items();
  count_rows(seen_items_.size());
  if (ranked_for_ != target) rank_seen_items(target);
  const std::size_t count = std::min(limit, item_ranking_.size());
  std::partial_sort(item_ranking_.begin(), item_ranking_.begin() + static_cast<std::ptrdiff_t>(count), item_ranking_.end(),
                    [this](const auto& a, const auto& b) {
                      return a.first != b.first ? a.first > b.first
                                                : seen_items_[a.second].position > seen_items_[b.second].position;
                    });
  for (std::size_t i = 0; i < count; ++i) {
    const SeenItem& seen = seen_items_[item_ranking_[i].second];
    nearest_.push_back({seen.item, seen.liked});
  }
  return nearest_;
}

// Fills item_ranking_, in no order, which serves every limit that a prompt asks for.
void Retrieval::rank_seen_items(Row target) {
  const std::size_t dim = catalog_.dim;
  const auto unpack = [&](Row item, float* out) {
    const Half* embedding = finite_item_row(embeddings_->items, item, "embeddings");
    std::transform(embedding, embedding + dim, out, to_float);
  };
  if (!seen_embeddings_ready_) {
    seen_with_embedding_.clear();
    seen_embeddings_.clear();
    for (std::size_t i = 0; i < seen_items_.size(); ++i) {
      if (is_zero_vector(item_row(embeddings_->items, seen_items_[i].item), dim)) continue;
      seen_with_embedding_.push_back(i);
      seen_embeddings_.resize(seen_with_embedding_.size() * dim);
      unpack(seen_items_[i].item, seen_embeddings_.data() + seen_embeddings_.size() - dim);
    }
    seen_embeddings_ready_ = true;
  }
  ranked_for_.reset();
  target_.resize(dim);
  unpack(target, target_.data());
  const std::size_t count = seen_with_embedding_.size();
  similarities_.resize(count);
  kernels::table().inner_products(target_.data(), seen_embeddings_.data(), count, dim, similarities_.data());
  item_ranking_.clear();
  for (std::size_t i = 0; i < count; ++i)
    if (seen_items_[seen_with_embedding_[i]].item != target)
      item_ranking_.emplace_back(similarities_[i], seen_with_embedding_[i]);
  ranked_for_ = target;
}

std::optional<bool> Retrieval::verdict(Row user, Row item) {
  count_rows(1);
  const Users& users = catalog_.users;
  const Span history = users.history(user);
  const std::size_t visible = slice(user).visible;
  // In the order of history_by_item, the end of the visible interactions with `item`.
  std::size_t low = 0, high = history.size();
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2, position = users.by_item(history, middle);
    const Row other = users.history_items[position];
    if (other < item || (other == item && position - history.begin < visible)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return std::nullopt;
  const std::size_t last = users.by_item(history, low - 1);
  if (users.history_items[last] != item) return std::nullopt;
  return users.liked(last);
}

std::size_t Retrieval::memory() const noexcept {
  std::size_t liked_vectors = liked_vectors_.capacity() * sizeof(LikedVectors);
  for (const LikedVectors& liked : liked_vectors_)
    liked_vectors += (liked.mean.capacity() + liked.vectors.capacity()) * sizeof(float) + liked.latest.capacity() * sizeof(Row) +
                     liked.places.capacity() * sizeof(std::size_t);
  return liked_vectors + history_.capacity() * sizeof(Interaction) + similar_.capacity() * sizeof(Row) +
         seen_items_.capacity() * sizeof(SeenItem) + seen_embeddings_.capacity() * sizeof(float) +
         seen_with_embedding_.capacity() * sizeof(std::size_t) + nearest_rows_.memory() + lists_.memory() +
         item_ranking_.capacity() * sizeof(Ranked) + liked_sum_.capacity() * sizeof(double) +
         query_vector_.capacity() * sizeof(float) + nearest_.capacity() * sizeof(Interaction) +
         (items_.capacity() + similar_liked_.capacity() + similar_liked_sorted_.capacity()) * sizeof(Row) +
         target_.capacity() * sizeof(float) + similarities_.capacity() * sizeof(double);
}

}  // namespace rexit::core

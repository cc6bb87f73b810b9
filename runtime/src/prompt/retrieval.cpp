#include "prompt/retrieval.hpp"

#include <algorithm>
#include <cmath>

#include "base/status.hpp"
#include "files/half.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t lanes = 8;  // independent sums, so that the compiler may vectorise

// Products of halves are exact in float32 and their sums in float64, so no order of summing changes the result.
double dot(const float* a, const float* b, std::size_t dim) noexcept {
  double sums[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= dim; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) sums[l] += static_cast<double>(a[i + l] * b[i + l]);
  for (; i < dim; ++i) sums[0] += static_cast<double>(a[i] * b[i]);
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

using Ranked = std::pair<double, std::size_t>;  // a product, and the row it is of

bool nearer(const Ranked& a, const Ranked& b) noexcept { return a.first != b.first ? a.first > b.first : a.second < b.second; }

// Keeps the `count` nearest in `heap`, the least near of them first: a search takes no memory by row.
void keep_nearest(std::vector<Ranked>& heap, std::size_t count, const Ranked& found) {
  if (heap.size() < count) {
    heap.push_back(found);
  } else if (!heap.empty() && nearer(found, heap.front())) {
    std::pop_heap(heap.begin(), heap.end(), nearer);
    heap.back() = found;
  } else {
    return;
  }
  std::push_heap(heap.begin(), heap.end(), nearer);
}

bool no_direction(const Half* vector, std::size_t dim) noexcept { return std::all_of(vector, vector + dim, is_zero); }

}  // namespace

void Retrieval::begin(const Query& query, const Deadline& deadline) {
  query_ = &query;
  deadline_ = &deadline;
  rows_ = 0;
  similar_known_ = met_known_ = embeddings_known_ = false;
  history_.clear();
  if (query.user) {
    const Slice own = slice(*query.user);
    for (std::size_t i = own.begin; i < own.begin + own.visible; ++i)
      history_.push_back({catalog_.users.history_item(i), catalog_.users.liked(i)});
  }
  history_.insert(history_.end(), query.recent.begin(), query.recent.end());
}

Retrieval::Slice Retrieval::slice(Row user) const {
  const Users& users = catalog_.users;
  const auto [begin, end] = users.history(user);
  if (!query_->as_of) return {begin, end - begin};
  const std::int64_t* times = users.history_times.data;
  return {begin, static_cast<std::size_t>(std::lower_bound(times + begin, times + end, *query_->as_of) - (times + begin))};
}

void Retrieval::check_rows() const {
  deadline_->check("retrieval");
  const std::size_t most = catalog_.users.ids.size() + most_rows;
  if (rows_ > most)
    fail(REXIT_CORRUPT, catalog_.users.table.path(), ": a part of the prompt looks at more than ", most,
         " rows of the catalog, the most that one may");
}

LikeCount Retrieval::history_likes() {
  look_at(history_.size());
  std::size_t likes = 0;
  for (const Interaction& one : history_) likes += one.liked ? 1 : 0;
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

const std::vector<Row>& Retrieval::similar_users() {
  if (similar_known_) return similar_;
  similar_known_ = true;
  similar_.clear();
  const Users& users = catalog_.users;
  if (query_->user && query_->recent.empty() && !query_->as_of) {
    look_at(users.neighbours);
    for (std::size_t i = 0; i < users.neighbours; ++i) {
      const Row other = users.similar_user(*query_->user, i);
      if (other != *query_->user) similar_.push_back(other);  // its own row stands where there is no neighbour
    }
  } else {
    search_similar();
  }
  return similar_;
}

// Sums to liked_sum_ what `row_of` gives for the history's liked items, [width] each, and returns their number. Sums of halves
// are exact in float64.
template <class RowOf>
std::size_t Retrieval::sum_liked(const RowOf& row_of, std::size_t width) {
  std::size_t likes = 0;
  liked_sum_.assign(width, 0.0);
  for (const Interaction& one : history_) {
    if (!one.liked) continue;
    ++likes;
    look_at(1);
    const Half* row = row_of(one.item);
    for (std::size_t i = 0; i < width; ++i) liked_sum_[i] += static_cast<double>(to_float(row[i]));
  }
  return likes;
}

void Retrieval::user_vector(const Vectors& vectors, std::vector<float>& out) {
  const std::size_t width = vectors.width();
  const auto likes = static_cast<double>(sum_liked([&](Row item) { return vectors.liked(item); }, width));
  out.resize(width);
  if (likes == 0) {
    std::transform(vectors.none_liked(), vectors.none_liked() + width, out.begin(), to_float);
  } else {
    std::transform(liked_sum_.begin(), liked_sum_.end(), out.begin(),
                   [likes](double sum) { return static_cast<float>(sum / likes); });
  }
}

// The user's embedding as LightGCN would propagate it from the liked items: a direction, false where there is none. What the sum
// is divided by is a power of two, so the one rounding is that of each component to a half.
bool Retrieval::fold_in() {
  const std::size_t dim = catalog_.dim;
  sum_liked([&](Row item) { return catalog_.items.folded(item); }, dim);
  double largest = 0;
  for (const double x : liked_sum_) largest = std::max(largest, std::abs(x));
  if (largest == 0) return false;
  int exponent = 0;
  std::frexp(largest, &exponent);
  query_vector_.resize(dim);
  std::transform(liked_sum_.begin(), liked_sum_.end(), query_vector_.begin(),
                 [exponent](double x) { return rounded_to_half(std::ldexp(x, -exponent)); });
  return true;
}

// To lists_: those whose centres are nearest. All offsets are read, so lists that overlap are refused, and no search looks at
// more than all users.
void Retrieval::find_lists(const UserLists& lists) {
  const Safetensors& table = catalog_.users.table;
  const std::size_t dim = catalog_.dim;
  lists_.clear();
  for (std::size_t list = 0; list < lists.size(); ++list) {
    look_at(1);
    lists.list(table, list);
    const Half* centre = lists.centres.data + list * dim;
    if (!all_finite(centre, dim)) fail(REXIT_CORRUPT, table.path(), ": `centres` of list ", list, " is not finite");
    std::transform(centre, centre + dim, other_.begin(), to_float);
    keep_nearest(lists_, lists.probes, {dot(query_vector_.data(), other_.data(), dim), list});
  }
}

void Retrieval::search_similar() {
  check_rows();  // of few users, too, none is looked at once the deadline has passed
  if (!fold_in()) return;
  const Users& users = catalog_.users;
  const std::size_t dim = catalog_.dim;
  other_.resize(dim);
  ranking_.clear();
  const auto compare = [&](std::size_t place, std::size_t user) {
    look_at(1);
    const Half* embedding = users.embeddings.data + place * dim;
    if ((query_->user && static_cast<std::size_t>(*query_->user) == user) || no_direction(embedding, dim)) return;
    if (!all_finite(embedding, dim))
      fail(REXIT_CORRUPT, users.table.path(), ": `embeddings` of user row ", user, " is not finite");
    std::transform(embedding, embedding + dim, other_.begin(), to_float);
    keep_nearest(ranking_, users.neighbours, {dot(query_vector_.data(), other_.data(), dim), user});
  };
  if (users.lists) {
    find_lists(*users.lists);
    for (const Ranked& list : lists_) {
      const Span span = users.lists->list(users.table, list.second);
      for (std::size_t place = span.begin; place < span.end; ++place)
        compare(place, static_cast<std::size_t>(users.lists->user(users.table, place)));
    }
  } else {
    for (std::size_t user = 0; user < users.ids.size(); ++user) compare(user, user);
  }
  std::sort_heap(ranking_.begin(), ranking_.end(), nearer);
  for (const auto& [product, user] : ranking_) similar_.push_back(static_cast<Row>(user));
}

void Retrieval::collect_met() {
  if (met_known_) return;
  met_known_ = true;
  look_at(history_.size());
  met_.clear();
  for (std::size_t i = 0; i < history_.size(); ++i) met_.push_back({history_[i].item, i, history_[i].liked});
  std::sort(met_.begin(), met_.end(),
            [](const Met& a, const Met& b) { return a.item != b.item ? a.item < b.item : a.place > b.place; });
  met_.erase(std::unique(met_.begin(), met_.end(), [](const Met& a, const Met& b) { return a.item == b.item; }), met_.end());
}

const std::vector<Row>& Retrieval::similar_liked(std::size_t limit) {
  liked_by_similar_.clear();
  sorted_.clear();
  const std::vector<Row>& similar = similar_users();
  if (similar.empty() || limit == 0) return liked_by_similar_;
  collect_met();
  const std::size_t from_each = (limit + similar.size() - 1) / similar.size();
  const auto met = [this](Row item) {
    return std::binary_search(met_.begin(), met_.end(), Met{item, 0, false},
                              [](const Met& a, const Met& b) { return a.item < b.item; });
  };
  for (const Row user : similar) {
    look_at(1);
    const Slice theirs = slice(user);
    std::size_t taken = 0;
    for (std::size_t i = theirs.begin + theirs.visible; i-- > theirs.begin && taken < from_each;) {
      look_at(1);
      const Row item = catalog_.users.history_item(i);
      if (!catalog_.users.liked(i) || met(item)) continue;
      const auto place = std::lower_bound(sorted_.begin(), sorted_.end(), item);
      if (place != sorted_.end() && *place == item) continue;
      sorted_.insert(place, item);
      liked_by_similar_.push_back(item);
      if (liked_by_similar_.size() == limit) return liked_by_similar_;
      ++taken;
    }
  }
  return liked_by_similar_;
}

const std::vector<Interaction>& Retrieval::nearest(Row target, std::size_t limit) {
  const std::size_t dim = catalog_.dim;
  const auto embedding = [&](Row item) { return catalog_.items.embeddings.data + static_cast<std::size_t>(item) * dim; };
  const auto unpack = [&](Row item, float* out) {
    if (!all_finite(embedding(item), dim))
      fail(REXIT_CORRUPT, catalog_.items.table.path(), ": `embeddings` of item row ", item, " is not finite");
    std::transform(embedding(item), embedding(item) + dim, out, to_float);
  };
  nearest_.clear();
  if (no_direction(embedding(target), dim)) return nearest_;
  collect_met();
  look_at(met_.size());
  if (!embeddings_known_) {
    met_embeddings_.resize(met_.size() * dim);
    for (std::size_t i = 0; i < met_.size(); ++i) unpack(met_[i].item, met_embeddings_.data() + i * dim);
    embeddings_known_ = true;
  }
  target_.resize(dim);
  unpack(target, target_.data());
  ranking_.clear();
  for (std::size_t i = 0; i < met_.size(); ++i)
    if (met_[i].item != target && !no_direction(embedding(met_[i].item), dim))
      ranking_.emplace_back(dot(target_.data(), met_embeddings_.data() + i * dim, dim), i);
  const std::size_t count = std::min(limit, ranking_.size());
  std::partial_sort(ranking_.begin(), ranking_.begin() + static_cast<std::ptrdiff_t>(count), ranking_.end(),
                    [this](const auto& a, const auto& b) {
                      return a.first != b.first ? a.first > b.first : met_[a.second].place > met_[b.second].place;
                    });
  for (std::size_t i = 0; i < count; ++i) nearest_.push_back({met_[ranking_[i].second].item, met_[ranking_[i].second].liked});
  return nearest_;
}

std::optional<bool> Retrieval::verdict(Row user, Row item) {
  look_at(1);
  const Users& users = catalog_.users;
  const Span all = users.history(user);
  const Slice theirs = slice(user);
  // The first place behind the last one that is about `item` and visible.
  std::size_t low = 0, high = all.size();
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2, position = users.by_item(all, middle);
    const Row met = users.history_items[position];
    if (met < item || (met == item && position - all.begin < theirs.visible)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return std::nullopt;
  const std::size_t last = users.by_item(all, low - 1);
  if (users.history_items[last] != item) return std::nullopt;
  return users.liked(last);
}

std::size_t Retrieval::memory() const noexcept {
  return history_.capacity() * sizeof(Interaction) + similar_.capacity() * sizeof(Row) + met_.capacity() * sizeof(Met) +
         met_embeddings_.capacity() * sizeof(float) + (ranking_.capacity() + lists_.capacity()) * sizeof(Ranked) +
         liked_sum_.capacity() * sizeof(double) + (query_vector_.capacity() + other_.capacity()) * sizeof(float) +
         nearest_.capacity() * sizeof(Interaction) + (liked_by_similar_.capacity() + sorted_.capacity()) * sizeof(Row) +
         target_.capacity() * sizeof(float);
}

}  // namespace rexit::core

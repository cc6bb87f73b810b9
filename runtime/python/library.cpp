#include "library.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "bundle/catalog/catalog.hpp"
#include "bundle/policy.hpp"
#include "bundle/word_pieces.hpp"
#include "files/json.hpp"
#include "prompt/nearest.hpp"
#include "prompt/prompt.hpp"
#include "prompt/retrieval.hpp"
#include "session/stops.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace rexit::python {
namespace {

template <class T, std::size_t Axes>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<Axes>>;
template <class T, std::size_t Axes>
using InArray = nb::ndarray<const T, nb::ndim<Axes>, nb::c_contig, nb::device::cpu>;

// The array owns the vector.
template <class T>
Array<T, 1> to_numpy(std::vector<T> values) {
  auto* vector = new std::vector<T>(std::move(values));
  const nb::capsule owner(vector, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Array<T, 1>(vector->data(), {vector->size()}, owner);
}

// An array whose values are not set, and the memory that it owns.
template <class T, std::size_t Axes>
Array<T, Axes> empty(const std::size_t (&shape)[Axes]) {
  std::size_t size = 1;
  for (const std::size_t length : shape) size *= length;
  T* values = new T[size];
  const nb::capsule owner(values, [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
  return Array<T, Axes>(values, Axes, shape, owner);
}

using Traces = InArray<float, 2>;
using Offsets = InArray<std::int64_t, 1>;

// A policy's maps and rules for recorded log-odds.
class Rules {
 public:
  // json: as policy.json. where: before the place in messages. Throws REXIT_CORRUPT.
  Rules(const nb::bytes& json, const std::string& where, std::size_t exits)
      : policy_(core::read_policy(core::JsonDocument(static_cast<const unsigned char*>(json.data()), json.size(), where).root(),
                                  exits)) {}

  Array<float, 2> calibrated(const Traces& log_odds) const {
    check_width(log_odds);
    const std::size_t rows = log_odds.shape(0), exits = policy_.exits.size();
    const auto c = empty<float, 2>({rows, exits});
    const nb::gil_scoped_release no_gil;
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t k = 0; k < exits; ++k) c.data()[i * exits + k] = policy_.calibrated(k, log_odds.data() + i * exits);
    return c;
  }

  Array<float, 2> probabilities(const Traces& log_odds) const {
    const auto p = calibrated(log_odds);
    std::transform(p.data(), p.data() + p.size(), p.data(),
                   [shift = policy_.prior_shift](float c) { return core::probability(c, shift); });
    return p;
  }

  Array<std::int64_t, 1> stops(const Traces& log_odds, const Offsets& offsets) const {
    const core::RecordedSlates recorded = slates(log_odds, offsets);
    const auto exits = empty<std::int64_t, 1>({recorded.rows()});
    const nb::gil_scoped_release no_gil;
    core::replay(policy_, recorded, exits.data());
    return exits;
  }

  std::pair<Array<std::int64_t, 1>, Array<std::int64_t, 1>> exit_range(const Traces& log_odds, float margin,
                                                                       const Offsets& offsets) const {
    const core::RecordedSlates recorded = slates(log_odds, offsets);
    const auto earliest = empty<std::int64_t, 1>({recorded.rows()}), latest = empty<std::int64_t, 1>({recorded.rows()});
    const nb::gil_scoped_release no_gil;
    core::replay_range(policy_, recorded, margin, earliest.data(), latest.data());
    return {earliest, latest};
  }

 private:
  void check_width(const Traces& log_odds) const {
    if (log_odds.shape(1) != policy_.exits.size()) throw std::invalid_argument("log_odds: expected a column for each exit");
  }

  core::RecordedSlates slates(const Traces& log_odds, const Offsets& offsets) const {
    check_width(log_odds);
    bool ascends = offsets.size() != 0 && offsets.data()[0] == 0;
    for (std::size_t i = 1; ascends && i < offsets.size(); ++i) ascends = offsets.data()[i - 1] <= offsets.data()[i];
    if (!ascends || static_cast<std::size_t>(offsets.data()[offsets.size() - 1]) != log_odds.shape(0))
      throw std::invalid_argument("offsets: expected ascending numbers from 0 to the rows of log_odds");
    return {log_odds.data(), offsets.data(), offsets.size() - 1};
  }

  core::Policy policy_;
};

// A file of word pieces. Threads may share it.
class WordPieces {
 public:
  WordPieces(nb::bytes file, const std::string& name, std::size_t most, bool only_second)
      : bytes_(std::move(file)),
        pieces_(core::File(name, static_cast<const unsigned char*>(bytes_.data()), bytes_.size()), most, only_second) {}

  // The pairs' tokens, one pair after the other, where each ends, and whether query or document were cut. `most`: tokens of a
  // document.
  std::tuple<Array<std::int32_t, 1>, Array<std::int64_t, 1>, std::vector<bool>> pairs(const std::string& query,
                                                                                      const std::vector<std::string>& documents,
                                                                                      std::optional<std::size_t> most) const {
    std::vector<std::int32_t> tokens;
    std::vector<std::int64_t> ends;
    std::vector<bool> cuts;
    {
      const nb::gil_scoped_release no_gil;
      core::TextTokens first, second;
      const core::Deadline no_deadline({}, 0);
      pieces_.append(query, first, no_deadline);
      for (const std::string& document : documents) {
        second.clear();
        pieces_.append(document, second, no_deadline);
        const std::size_t size = second.tokens.size(), whole = first.tokens.size() + size + pieces_.special();
        cuts.push_back(pieces_.append_pair(first.tokens.data(), first.tokens.size(), second.tokens.data(),
                                           std::min(size, most.value_or(size)), tokens) < whole);
        ends.push_back(static_cast<std::int64_t>(tokens.size()));
      }
    }
    return {to_numpy(std::move(tokens)), to_numpy(std::move(ends)), std::move(cuts)};
  }

 private:
  nb::bytes bytes_;
  core::WordPieces pieces_;
};

using Halves = InArray<std::uint16_t, 2>;  // their bits

const core::Half* halves(const Halves& table) { return reinterpret_cast<const core::Half*>(table.data()); }

void check_row(const char* what, std::int64_t row, std::size_t count) {
  if (row < 0 || static_cast<std::uint64_t>(row) >= count)
    throw std::invalid_argument(std::string(what) + " row " + std::to_string(row) + " is not one of " + std::to_string(count));
}

// Of each query the row of `table` with the largest product, the lowest of several: int64 [queries].
Array<std::int64_t, 1> nearest_row(const Halves& queries, const Halves& table) {
  const std::size_t count = queries.shape(0), dim = table.shape(1);
  if (queries.shape(1) != dim || table.shape(0) == 0) throw std::invalid_argument("nearest_row: expected rows of one width");
  const auto nearest = empty<std::int64_t, 1>({count});
  const nb::gil_scoped_release no_gil;
  core::NearestRows search;
  std::vector<float> vector(dim);
  for (std::size_t query = 0; query < count; ++query) {
    std::transform(halves(queries) + query * dim, halves(queries) + (query + 1) * dim, vector.begin(), core::to_float);
    search.begin(1);
    search.add(
        vector, halves(table), {0, table.shape(0)}, [](std::size_t row) { return std::optional(row); }, [](std::size_t) {});
    nearest.data()[query] = static_cast<std::int64_t>(search.found().front().second);
  }
  return nearest;
}

// Embeddings of an earlier moment, in arrays of the caller.
class Embeddings {
 public:
  using Lists = std::tuple<std::size_t, Halves, InArray<std::int64_t, 1>, InArray<std::int32_t, 1>>;

  // `lists`: probes, centres, offsets and users of the lists, in whose order `users` is then.
  Embeddings(Halves users, Halves items, Halves fold_in, std::optional<Lists> lists)
      : users_(std::move(users)), items_(std::move(items)), fold_in_(std::move(fold_in)), arrays_(std::move(lists)) {
    if (arrays_) {
      const auto& [probes, centres, offsets, rows] = *arrays_;
      check_lists(centres, offsets, rows);
      lists_ = core::UserLists(probes, {halves(centres), centres.size()}, {offsets.data(), offsets.size()},
                               {rows.data(), rows.size()});
      places_.resize(rows.size());
      for (std::size_t place = 0; place < rows.size(); ++place) places_[static_cast<std::size_t>(rows.data()[place])] = place;
    }
    embeddings_ = {halves(users_), lists_ ? &*lists_ : nullptr, halves(items_), halves(fold_in_)};
  }
  Embeddings(const Embeddings&) = delete;

  const core::Embeddings* of(const core::Catalog& catalog) const {
    const std::size_t users = catalog.users.ids.size(), items = catalog.items.ids.size(), dim = catalog.dim;
    for (const auto& [table, rows] : {std::pair(&users_, users), std::pair(&items_, items), std::pair(&fold_in_, items)})
      if (table->shape(0) != rows || table->shape(1) != dim)
        throw std::invalid_argument("embeddings: expected a row for each user and item of the catalog");
    return &embeddings_;
  }

  // The users most similar to those of rows `begin` to `end`, int32 [end - begin, count], nearest first; a user with fewer has
  // its own row in the remaining places. A user is folded in from what it liked, or, if `own`, looked up by its own row where
  // that is not zero. offsets, items, liked: all users' histories, as in users.safetensors.
  Array<std::int32_t, 2> similar(const InArray<std::int64_t, 1>& offsets, const InArray<std::int32_t, 1>& items,
                                 const InArray<std::uint8_t, 1>& liked, std::size_t begin, std::size_t end, std::size_t count,
                                 bool own) const {
    const std::size_t users = users_.shape(0), rows = fold_in_.shape(0), dim = users_.shape(1);
    const auto ascends = [&] { return std::is_sorted(offsets.data(), offsets.data() + users + 1); };
    if (begin > end || end > users || fold_in_.shape(1) != dim || offsets.size() != users + 1 || items.size() != liked.size() ||
        offsets.data()[0] < 0 || !ascends() || static_cast<std::size_t>(offsets.data()[users]) > items.size())
      throw std::invalid_argument("similar: expected rows of users, and a history for each");
    const auto table = empty<std::int32_t, 2>({end - begin, count});
    const nb::gil_scoped_release no_gil;
    core::NearestRows nearest, lists;
    std::vector<double> sum(dim);
    std::vector<float> vector(dim);
    const auto any = [](std::size_t) {};
    for (std::size_t user = begin; user < end; ++user) {
      std::int32_t* row = table.data() + (user - begin) * count;
      std::fill(row, row + count, static_cast<std::int32_t>(user));
      sum.assign(dim, 0);
      for (std::int64_t i = offsets.data()[user]; i < offsets.data()[user + 1]; ++i) {
        if (liked.data()[i] == 0) continue;
        check_row("item", items.data()[i], rows);
        const core::Half* item = halves(fold_in_) + static_cast<std::size_t>(items.data()[i]) * dim;
        for (std::size_t d = 0; d < dim; ++d) sum[d] += static_cast<double>(core::to_float(item[d]));
      }
      const core::Half* embedding = halves(users_) + place_of(user) * dim;
      if (own && !core::is_zero_vector(embedding, dim))
        std::transform(embedding, embedding + dim, vector.begin(), core::to_float);
      else if (core::set_direction(sum, vector) == 0)
        continue;
      nearest.begin(count);
      const auto search = [&](core::Span span) {
        nearest.add(
            vector, halves(users_), span,
            [&](std::size_t place) -> std::optional<std::size_t> {
              const auto other = lists_ ? static_cast<std::size_t>(lists_->users.data[place]) : place;
              if (other == user || core::is_zero_vector(halves(users_) + place * dim, dim)) return {};
              return other;
            },
            any);
      };
      if (!lists_) {
        search({0, users});
      } else {
        lists.begin(lists_->probes);
        lists.add(vector, lists_->centres.data, {0, lists_->size()}, [](std::size_t list) { return std::optional(list); }, any);
        for (const auto& [product, list] : lists.found())
          search(
              {static_cast<std::size_t>(lists_->offsets.data[list]), static_cast<std::size_t>(lists_->offsets.data[list + 1])});
      }
      for (const auto& [product, other] : nearest.sorted()) *row++ = static_cast<std::int32_t>(other);
    }
    return table;
  }

 private:
  std::size_t place_of(std::size_t user) const noexcept { return lists_ ? places_[user] : user; }

  // A search reads centres and rows by the offsets, unchecked.
  void check_lists(const Halves& centres, const InArray<std::int64_t, 1>& offsets, const InArray<std::int32_t, 1>& rows) const {
    const std::size_t lists = centres.shape(0), users = users_.shape(0);
    bool fits = centres.shape(1) == users_.shape(1) && offsets.size() == lists + 1 && rows.size() == users;
    fits = fits && offsets.data()[0] == 0 && offsets.data()[lists] <= static_cast<std::int64_t>(users) &&
           std::is_sorted(offsets.data(), offsets.data() + offsets.size()) &&
           std::all_of(rows.data(), rows.data() + rows.size(),
                       [users](std::int32_t row) { return row >= 0 && static_cast<std::size_t>(row) < users; });
    if (!fits)
      throw std::invalid_argument(
          "lists: expected a centre as wide as the embeddings and ascending offsets for each list, and every user's row");
  }

  Halves users_, items_, fold_in_;
  std::optional<Lists> arrays_;
  std::optional<core::UserLists> lists_;
  std::vector<std::size_t> places_;  // of the users in the lists
  core::Embeddings embeddings_{};
};

// A slate by rows: user, items, as_of, fresh interactions, the inputs' codes, once or for each item, and embeddings: those of an
// earlier moment, True: the catalog's own, None: none.
using Slate = std::tuple<std::optional<core::Row>, InArray<std::int64_t, 1>, std::optional<std::int64_t>,
                         std::vector<std::pair<core::Row, bool>>, std::vector<std::vector<core::Codes>>, nb::handle>;

// A catalog's folder without graphs: the prompts and exit zero's numbers of slates.
class Catalog {
 public:
  Catalog(const std::string& parent, const std::string& folder, const nb::bytes& description)
      : source_(parent),
        catalog_(source_, folder,
                 core::JsonDocument(reinterpret_cast<const unsigned char*>(description.c_str()), description.size(),
                                    source_.where(folder + "/catalog.json"))) {}

  // Of each slate tokens and offsets as core::Prompt has them.
  std::vector<std::pair<Array<std::int32_t, 1>, Array<std::int64_t, 1>>> prompts(const std::vector<Slate>& slates) const {
    struct Assembled {
      std::vector<std::int32_t> tokens;
      std::vector<std::int64_t> offsets;
    };
    std::vector<Assembled> assembled;
    assembled.reserve(slates.size());
    core::Prompt prompt;
    answer(slates, [&](core::Retrieval& retrieval, const core::Deadline& deadline, std::size_t) {
      core::assemble(catalog_, std::numeric_limits<std::int32_t>::max(), deadline, retrieval, prompt);
      assembled.push_back({prompt.tokens, {prompt.offsets.begin(), prompt.offsets.end()}});
    });
    std::vector<std::pair<Array<std::int32_t, 1>, Array<std::int64_t, 1>>> arrays;
    for (Assembled& slate : assembled) arrays.emplace_back(to_numpy(std::move(slate.tokens)), to_numpy(std::move(slate.offsets)));
    return arrays;
  }

  // [items of all slates, numbers]. `scores`: of all slates, [Program::scores, items].
  Array<float, 2> numbers(const std::vector<Slate>& slates, const InArray<float, 2>& scores) const {
    const std::size_t width = catalog_.program.numbers.size();
    std::size_t rows = 0;
    for (const Slate& slate : slates) rows += std::get<1>(slate).size();
    core::StageScores of_slate(catalog_.program.scores.size());
    if (scores.shape(0) != of_slate.size() || scores.shape(1) != rows)
      throw std::invalid_argument("scores: expected one of each name for each item");
    const auto table = empty<float, 2>({rows, width});
    std::vector<float> numbers;
    std::size_t row = 0;
    answer(slates, [&](core::Retrieval& retrieval, const core::Deadline&, std::size_t items) {
      for (std::size_t s = 0; s < of_slate.size(); ++s) {
        const float* first = scores.data() + s * rows + row;
        of_slate[s].assign(first, first + items);
      }
      retrieval.numbers(of_slate, numbers);
      std::copy(numbers.begin(), numbers.end(), table.data() + row * width);
      row += items;
    });
    return table;
  }

  // Of each slate, without its items, the rows that a request with `retrieve` would choose, best first.
  std::vector<Array<std::int64_t, 1>> retrieve(const std::vector<Slate>& slates, std::size_t count) const {
    std::vector<std::vector<std::int64_t>> chosen;
    answer(
        slates,
        [&](core::Retrieval& retrieval, const core::Deadline&, std::size_t) {
          chosen.emplace_back(retrieval.items().begin(), retrieval.items().end());
        },
        count);
    std::vector<Array<std::int64_t, 1>> arrays;
    for (std::vector<std::int64_t>& rows : chosen) arrays.push_back(to_numpy(std::move(rows)));
    return arrays;
  }

 private:
  // Calls use(retrieval, deadline, items) for each slate, without the GIL. `retrieve`: as in core::Query.
  template <class Use>
  void answer(const std::vector<Slate>& slates, const Use& use, std::size_t retrieve = 0) const {
    const core::Embeddings own = catalog_.embeddings();
    std::vector<const core::Embeddings*> embeddings;
    for (const Slate& slate : slates) {
      const nb::handle choice = std::get<5>(slate);
      embeddings.push_back(choice.is_none()     ? nullptr
                           : choice.is(Py_True) ? &own
                                                : nb::cast<const Embeddings&>(choice).of(catalog_));
    }
    const nb::gil_scoped_release no_gil;
    core::Retrieval retrieval(catalog_);
    const core::Deadline deadline({}, 0);
    core::Query query;
    query.retrieve = retrieve;
    for (std::size_t s = 0; s < slates.size(); ++s) {
      const auto& [user, items, as_of, recent, inputs, choice] = slates[s];
      query.user = user;
      if (user) check_row("user", *user, catalog_.users.ids.size());
      query.items.clear();
      for (std::size_t i = 0; i < items.size(); ++i) query.items.push_back(item_row(items.data()[i]));
      query.as_of = as_of;
      query.recent.clear();
      for (const auto& [item, liked] : recent) query.recent.push_back({item_row(item), liked});
      query.inputs_by_item = inputs.size() != 1;
      if (query.inputs_by_item && inputs.size() != items.size())
        throw std::invalid_argument("inputs: expected one set of codes, or one for each item");
      query.inputs.clear();
      for (const std::vector<core::Codes>& codes : inputs) {
        if (codes.size() != catalog_.program.inputs.size())
          throw std::invalid_argument("inputs: expected the codes of each input of the prompt");
        query.inputs.insert(query.inputs.end(), codes.begin(), codes.end());
      }
      check_codes(query);
      retrieval.begin(query, deadline, embeddings[s]);
      use(retrieval, deadline, items.size());
    }
  }

  core::Row item_row(std::int64_t row) const {
    check_row("item", row, catalog_.items.ids.size());
    return static_cast<core::Row>(row);
  }

  void check_codes(const core::Query& query) const {
    const std::vector<core::Input>& inputs = catalog_.program.inputs;
    for (std::size_t i = 0; i < query.inputs.size(); ++i)
      for (const std::int32_t code : query.inputs[i])
        if (const core::Input& input = inputs[i % inputs.size()]; !input.is_text()) check_row("inputs: code", code, input.size());
  }

  core::Folder source_;
  core::Catalog catalog_;
};

// One of catalog.json's `prompt.inputs`.
class Input {
 public:
  explicit Input(const nb::bytes& json)
      : input_(core::JsonDocument(reinterpret_cast<const unsigned char*>(json.c_str()), json.size(), "inputs").root()) {}

  // `value`: a number, a text, token ids, or None: it is missing.
  Array<std::int32_t, 1> encode(const std::optional<std::variant<double, std::string, InArray<std::int64_t, 1>>>& value,
                                std::size_t vocabulary) const {
    core::Codes codes;
    if (!value) {
      input_.check_missing();
    } else if (const auto* number = std::get_if<double>(&*value)) {
      input_.encode(*number, codes);
    } else if (const auto* text = std::get_if<std::string>(&*value)) {
      input_.encode(*text, codes);
    } else {
      const auto& tokens = std::get<InArray<std::int64_t, 1>>(*value);
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        codes.push_back(static_cast<std::int32_t>(tokens.data()[t]));
        if (codes.back() != tokens.data()[t])
          core::fail(REXIT_INVALID_ARGUMENT, "inputs.", input_.name(), '[', t, "] is ", tokens.data()[t],
                     ", expected a token id from 0 to ", vocabulary - 1);
      }
      input_.check_tokens(codes, vocabulary);
      if (codes.empty()) input_.check_missing();
    }
    return to_numpy(std::move(codes));
  }

 private:
  core::Input input_;
};

}  // namespace

void bind_library(nb::module_& module) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const core::Error& error) {
      set_error(error.status(), error.what());
    }
  });
  nb::class_<Input>(module, "Input")
      .def(nb::init<const nb::bytes&>(), "json"_a)
      .def("encode", &Input::encode, "value"_a.none(), "vocabulary"_a);
  nb::class_<Embeddings>(module, "Embeddings")
      .def(nb::init<Halves, Halves, Halves, std::optional<Embeddings::Lists>>(), "users"_a, "items"_a, "fold_in"_a,
           "lists"_a.none())
      .def("similar", &Embeddings::similar, "offsets"_a, "items"_a, "liked"_a, "begin"_a, "end"_a, "count"_a, "own"_a);
  module.def("nearest_row", &nearest_row, "queries"_a, "table"_a);
  nb::class_<Catalog>(module, "Catalog")
      .def(nb::init<const std::string&, const std::string&, const nb::bytes&>(), "parent"_a, "folder"_a, "description"_a)
      .def("prompts", &Catalog::prompts, "slates"_a)
      .def("numbers", &Catalog::numbers, "slates"_a, "scores"_a)
      .def("retrieve", &Catalog::retrieve, "slates"_a, "count"_a);
  nb::class_<WordPieces>(module, "WordPieces")
      .def(nb::init<nb::bytes, const std::string&, std::size_t, bool>(), "file"_a, "name"_a, "most"_a, "only_second"_a)
      .def("pairs", &WordPieces::pairs, "query"_a, "documents"_a, "most"_a.none());
  nb::class_<Rules>(module, "Rules")
      .def(nb::init<const nb::bytes&, const std::string&, std::size_t>(), "json"_a, "where"_a, "exits"_a)
      .def("calibrated", &Rules::calibrated, "log_odds"_a)
      .def("probabilities", &Rules::probabilities, "log_odds"_a)
      .def("stops", &Rules::stops, "log_odds"_a, "offsets"_a)
      .def("exit_range", &Rules::exit_range, "log_odds"_a, "margin"_a, "offsets"_a);
  module.attr("MAX_SLOPE") = core::max_slope;
  module.attr("MAX_INTERCEPT") = core::max_intercept;
}

}  // namespace rexit::python

#include "library.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bundle/policy.hpp"
#include "session/stops.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace rexit::python {
namespace {

template <class T, std::size_t Axes>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<Axes>>;
template <class T, std::size_t Axes>
using InArray = nb::ndarray<const T, nb::ndim<Axes>, nb::c_contig, nb::device::cpu>;

// An array whose values are not set, and the memory that it owns.
template <class T, std::size_t Axes>
Array<T, Axes> empty(const std::size_t (&shape)[Axes]) {
  std::size_t size = 1;
  for (const std::size_t length : shape) size *= length;
  T* values = new T[size];
  const nb::capsule owner(values, [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
  return Array<T, Axes>(values, Axes, shape, owner);
}

using TopK = std::tuple<std::size_t, bool, std::vector<float>, std::vector<float>>;  // k, ordered, rise, fall
using Traces = InArray<float, 2>;
using Offsets = InArray<std::int64_t, 1>;

// A policy's maps and rules for recorded log-odds.
class Rules {
 public:
  Rules(const std::vector<std::pair<float, float>>& maps, std::vector<float> earlier,
        const std::vector<std::pair<float, float>>& thresholds, std::size_t patience, std::vector<std::size_t> keep,
        std::size_t quorum, std::optional<TopK> top_k) {
    const std::size_t exits = maps.size();
    const auto check = [](bool holds, const char* expected) {
      if (!holds) throw std::invalid_argument(expected);
    };
    check(exits != 0 && thresholds.size() == exits, "thresholds: expected a pair for each exit");
    check(earlier.empty() || earlier.size() == exits * (exits - 1) / 2, "earlier: expected k weights for exit k");
    check(keep.empty() || keep.size() == exits, "keep: expected a number for each exit");
    for (std::size_t k = 0; k < exits; ++k)
      policy_.exits.push_back({maps[k].first, maps[k].second, thresholds[k].first, thresholds[k].second});
    policy_.earlier = std::move(earlier);
    policy_.patience = patience;
    policy_.keep = std::move(keep);
    policy_.quorum = quorum;
    if (!top_k) return;
    auto& [k, ordered, rise, fall] = *top_k;
    check(rise.size() + 1 == exits && fall.size() + 1 == exits, "top_k: expected a rise and a fall for each exit but the last");
    policy_.top_k = {k, ordered, std::move(rise), std::move(fall)};
  }

  Array<float, 2> calibrated(const Traces& log_odds) const {
    check_width(log_odds);
    const std::size_t rows = log_odds.shape(0), exits = policy_.exits.size();
    const auto c = empty<float, 2>({rows, exits});
    const nb::gil_scoped_release no_gil;
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t k = 0; k < exits; ++k) c.data()[i * exits + k] = policy_.calibrated(k, log_odds.data() + i * exits);
    return c;
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

}  // namespace

void bind_library(nb::module_& module) {
  nb::class_<Rules>(module, "Rules")
      .def(nb::init<const std::vector<std::pair<float, float>>&, std::vector<float>, const std::vector<std::pair<float, float>>&,
                    std::size_t, std::vector<std::size_t>, std::size_t, std::optional<TopK>>(),
           "maps"_a, "earlier"_a, "thresholds"_a, "patience"_a, "keep"_a, "quorum"_a, "top_k"_a.none())
      .def("calibrated", &Rules::calibrated, "log_odds"_a)
      .def("stops", &Rules::stops, "log_odds"_a, "offsets"_a)
      .def("exit_range", &Rules::exit_range, "log_odds"_a, "margin"_a, "offsets"_a);
}

}  // namespace rexit::python

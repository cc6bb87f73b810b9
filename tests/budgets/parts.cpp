// Runs the parts of a request separately under callgrind, which counts their instructions: parts FOLDER, written by
// tests/builders/bundles/counted.py. Prints the compiler, then a line `NAME UNITS` per part; tests/budgets/__main__.py reads that
// and callgrind's files.
//
// A part runs twice, with fewer and with more units. Other work cancels out in the difference, which is divided by the difference
// in units. Nothing here is random, and segments compute nothing.
#include <valgrind/callgrind.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "files/json.hpp"
#include "prompt/prompt.hpp"
#include "rexit/rexit.hpp"
#include "session/session.hpp"
#include "session/slate.hpp"

namespace rexit::core {
namespace {

// A backend that computes nothing. Log-odds are row numbers, so that candidates stop at different exits.
class Nothing final : public Backend {
 public:
  void run(std::size_t, const Pass& pass) const override {
    for (std::size_t n = 0; pass.logits != nullptr && n < pass.rows; ++n) {
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = static_cast<float>(n);
    }
  }
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes); }
  void release(void* memory) const noexcept override { ::operator delete(memory); }
  void copy(void* to, const void* from, std::size_t bytes) const override { std::memmove(to, from, bytes); }
};

// Exit zero's graph, likewise.
class NoGraph final : public ZeroGraph {
 public:
  void run(const float*, std::size_t rows, float* log_odds) const override {
    for (std::size_t row = 0; row < rows; ++row) log_odds[row] = static_cast<float>(row);
  }
};

constexpr std::size_t slate = 20, times = 100;
constexpr float never = std::numeric_limits<float>::infinity();

// User ids are 100, 103, ...; item ids -7, -2, ... (tests/builders/bundles/catalog.py).
std::int64_t user_id(std::size_t row) { return 100 + 3 * static_cast<std::int64_t>(row); }
std::int64_t item_id(std::size_t row) { return -7 + 5 * static_cast<std::int64_t>(row); }

// Uses the result of a call, so that the compiler keeps the call.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

// `units`: the units that `more` has beyond `less`.
template <class Less, class More>
void count(const std::string& part, std::size_t units, const Less& less, const More& more) {
  const std::string of_less = part + " less", of_more = part + " more";
  less(), more();  // so that buffers have their final sizes
  CALLGRIND_ZERO_STATS;
  less();
  CALLGRIND_DUMP_STATS_AT(of_less.c_str());
  CALLGRIND_ZERO_STATS;
  more();
  CALLGRIND_DUMP_STATS_AT(of_more.c_str());
  std::printf("%s %zu\n", part.c_str(), units);
}

// Counts call(i), which has `units_per_call` units.
template <class Call>
void count_calls(const std::string& part, std::size_t repeated, const Call& call, std::size_t units_per_call = 1) {
  const auto run = [&](std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) call(i);
  };
  count(part, repeated * units_per_call, [&] { run(repeated); }, [&] { run(2 * repeated); });
}

std::vector<Row> rows(std::size_t count) {
  std::vector<Row> all;
  for (std::size_t i = 0; i < count; ++i) all.push_back(static_cast<Row>(i * 97));  // apart, as a slate's are
  return all;
}

void count_ids(const Bundle& numbers, const Bundle& strings) {
  const Ids &integers = numbers.catalog().items.ids, &texts = strings.catalog().items.ids;
  count_calls("find_integer_id", times, [&](std::size_t i) { keep(integers.find(item_id(i * 25))); });
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < 2 * times; ++i) keys.emplace_back(texts.string_at(i * 25));
  count_calls("find_text_id", times, [&](std::size_t i) { keep(texts.find(std::string_view(keys[i]))); });
}

void count_retrieval(const Bundle& bundle) {
  const Deadline none({}, 0);
  Retrieval retrieval(bundle.catalog());
  Query known;
  known.user = 7;
  count_calls("retrieve_known_user", times, [&](std::size_t) {
    retrieval.begin(known, none);
    keep(retrieval.similar_liked(8));
  });

  Query fresh = known;
  for (const Row item : rows(5)) fresh.recent.push_back({item, true});
  count_calls(
      "search_per_user", 1,
      [&](std::size_t) {
        retrieval.begin(fresh, none);
        keep(retrieval.similar_users());
      },
      bundle.catalog().users.ids.size());
  Query chosen = known;
  chosen.retrieve = slate;
  count_calls("retrieve_per_item", 1, [&](std::size_t) { retrieval.begin(chosen, none); }, bundle.catalog().items.ids.size());

  retrieval.begin(known, none);
  count_calls("nearest_in_history", slate, [&](std::size_t i) { keep(retrieval.nearest(static_cast<Row>(i * 97), 2)); });
}

void count_prompt(const Bundle& bundle) {
  const Deadline none({}, 0);
  Retrieval retrieval(bundle.catalog());
  Prompt prompt;
  Query query;
  query.user = 7;
  count_calls("assemble_prefix", times, [&](std::size_t) {
    retrieval.begin(query, none);
    assemble(bundle, none, retrieval, prompt);
  });
  const auto candidates = [&](std::size_t n) {
    return [&, of = rows(n)] {
      query.items = of;
      retrieval.begin(query, none);
      assemble(bundle, none, retrieval, prompt);
    };
  };
  count("assemble_candidate", slate, candidates(slate), candidates(2 * slate));
}

// P is the cost of packing a slate, D that of its candidates at an exit. Up to the first exit a slate costs P + D, up to the
// second P + 2 D.
void count_slate(const Bundle& bundle) {
  const Deadline none({}, 0);
  const Nothing backend;
  Retrieval retrieval(bundle.catalog());
  Prompt prompt;
  Query query;
  query.user = 7;
  query.items = rows(slate);
  retrieval.begin(query, none);
  assemble(bundle, none, retrieval, prompt);
  PrefixCache prefix(bundle, backend, std::size_t{1} << 20);
  prefix.set_current(prompt.tokens.data(), prompt.prefix_tokens());
  Slate packed(bundle, backend);
  SlateStats stats;
  const auto run = [&](const Policy& policy, std::size_t n) {
    const StopRule rule{&policy, std::nullopt};
    for (std::size_t i = 0; i < n; ++i) {
      packed.begin(prompt.candidates(), nullptr, rule);
      keep(packed.run(prompt, prefix, rule, none, stats));
    }
  };
  const Policy first{{{1, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0}}}, second{{{1, 0, never, never}, {1, 0, 0, 0}, {1, 0, 0, 0}}};
  count("pack_slate", times, [&] { run(second, times); }, [&] { run(first, 2 * times); });
  count("exit_decision", times * slate, [&] { run(first, times); }, [&] { run(second, times); });
  // The same with a rule of the whole slate that stops no candidate.
  const TopK top_k{slate / 2, true, {1000, 1000}, {1000, 1000}};
  const Policy ranked_second{second.exits, 1, top_k, 0};
  count("exit_decision_top_k", times * slate, [&] { run(first, times); }, [&] { run(ranked_second, times); });
}

void count_files(const std::string& folder, const Bundle& bundle) {
  const std::string policy = bundle.where(bundle.variant().folder) + "/policy.json";
  count_calls("read_policy_json", 10, [&](std::size_t) { keep(read_json(File(policy), "rexit calibrate")); });
  count_calls("open_bundle", 2, [&](std::size_t) { keep(Bundle(folder, nullptr)); });
}

// For a user and the first `count` of items that are apart.
rexit::Request request_of(std::size_t count) {
  std::vector<rexit::Id> items;
  for (std::size_t i = 0; i < count; ++i) items.emplace_back(item_id(i * 97));
  return rexit::Request(user_id(7)).items(items);
}

// Through the C ABI.
void count_request(const std::string& folder) {
  rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  const std::string request = request_of(slate).json();
  count_calls("request_cached_prefix", times, [&](std::size_t) { keep(session.score(request)); });
  count_calls("request_json", times, [&](std::size_t) { keep(session.score_json(request)); });
  count_calls("request_new_prefix", times, [&](std::size_t) {
    session.clear_cache();
    keep(session.score(request));
  });
}

// A candidate of known users that stops at exit zero: its id, its numbers, the decision and the answer.
void count_exit_zero(const std::string& folder) {
  rexit::Bundle bundle(folder);
  rexit::Session session(bundle);
  const auto run = [&](const std::string& request) { return [&] { keep(session.score(request)); }; };
  const std::string one = request_of(slate).force_exit(0).json(), two = request_of(2 * slate).force_exit(0).json();
  count("candidate_exit_zero", slate, run(one), run(two));
}

}  // namespace

std::shared_ptr<const ZeroGraph> load_zero_graph(const Bundle&, const Execution&) { return std::make_shared<const NoGraph>(); }

BackendFactory make_backend_factory(const Bundle&, const Execution&) {
  return [backend = std::make_shared<const Nothing>()] { return backend; };
}

Conditions conditions_of(const Bundle&, const Execution&) { return {"cpu", 1, "", "", ""}; }

}  // namespace rexit::core

int main(int argc, char** argv) try {
  using namespace rexit::core;
  if (argc != 2 || RUNNING_ON_VALGRIND == 0) {
    std::fprintf(stderr, "usage: valgrind --tool=callgrind %s FOLDER; see tests/budgets/__main__.py\n", argv[0]);
    return 2;
  }
  const std::string numbers_folder = std::string(argv[1]) + "/numbers";
  const Bundle numbers(numbers_folder, nullptr), strings(std::string(argv[1]) + "/strings", nullptr);
  std::puts(REXIT_COMPILER);
  count_ids(numbers, strings);
  count_retrieval(numbers);
  count_prompt(numbers);
  count_slate(numbers);
  count_files(numbers_folder, numbers);
  count_request(numbers_folder);
  count_exit_zero(std::string(argv[1]) + "/zero");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "parts: %s\n", error.what());
  return 1;
}

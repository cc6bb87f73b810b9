#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <random>

#include "commands.hpp"
#include "failure.hpp"
#include "ids.hpp"
#include "output.hpp"

namespace rexit::program {

namespace {

using nlohmann::ordered_json;

// Full depth, the policy, each exit but the last. `force_exit` empty: the policy.
struct Mode {
  std::string name;
  std::optional<std::uint32_t> force_exit;
};

// What one request took with one state of the prefix: milliseconds, and what ran.
struct Taken {
  double total, retrieval, prefix, slate, layers, prefix_tokens, candidate_tokens;
};

struct Slate {
  Id user;
  std::vector<Id> items;
};

// The same ones every time; no user twice while there are others.
std::vector<Slate> draw(const Bundle& bundle, const BenchOptions& options) {
  const rexit_bundle_info info = bundle.info();
  if (options.slate > info.items)
    throw Failure("--slate " + std::to_string(options.slate) + ", the catalog has " + std::to_string(info.items) + " items");
  std::mt19937_64 random(1);
  const auto rows = [&](std::size_t of, std::size_t count) {  // without replacement
    std::vector<std::size_t> all(of), drawn;
    std::iota(all.begin(), all.end(), std::size_t{0});
    std::sample(all.begin(), all.end(), std::back_inserter(drawn), count, random);
    std::shuffle(drawn.begin(), drawn.end(), random);
    return drawn;
  };
  std::vector<Id> users;
  if (options.users.empty()) {
    for (const std::size_t row : rows(info.users, std::min(options.requests, info.users)))
      users.push_back(bundle.id(REXIT_USERS, row));
  } else {
    users = parse_ids(options.users, info.string_user_ids != 0, "user");
  }
  if (users.empty()) throw Failure("the catalog has no users, expected --user");
  std::vector<Slate> slates;
  for (std::size_t r = 0; r < options.requests; ++r) {
    slates.push_back({users[r % users.size()], {}});
    for (const std::size_t row : rows(info.items, options.slate)) slates.back().items.push_back(bundle.id(REXIT_ITEMS, row));
  }
  return slates;
}

std::vector<Mode> modes_of(const Bundle& bundle) {
  const std::vector<std::size_t> layers = depths(bundle);
  std::vector<Mode> modes{{"full depth", static_cast<std::uint32_t>(layers.size() - 1)}};
  if (bundle.info().calibrated != 0) modes.push_back({"calibrated", std::nullopt});
  for (std::uint32_t k = 0; k + 1 < layers.size(); ++k)
    modes.push_back({std::to_string(layers[k]) + (layers[k] == 1 ? " layer" : " layers"), k});
  return modes;
}

Taken taken(const rexit_stats& stats, std::size_t items) {
  return {stats.total_us / 1000,
          stats.retrieval_us / 1000,
          stats.prefix_us / 1000,
          stats.slate_us / 1000,
          static_cast<double>(stats.candidate_layers) / static_cast<double>(items),
          static_cast<double>(stats.prefix_tokens),
          static_cast<double>(stats.candidate_tokens)};
}

// Between the two nearest values, as NumPy's.
double percentile(const std::vector<double>& ascending, double share) {
  const double at = share * static_cast<double>(ascending.size() - 1);
  const auto low = static_cast<std::size_t>(at), high = std::min(low + 1, ascending.size() - 1);
  return ascending[low] + (at - static_cast<double>(low)) * (ascending[high] - ascending[low]);
}

ordered_json row_of(const Mode& mode, const char* prefix, const std::vector<Taken>& all) {
  const auto mean = [&](double Taken::* field) {
    double sum = 0;
    for (const Taken& one : all) sum += one.*field;
    return sum / static_cast<double>(all.size());
  };
  std::vector<double> totals;
  for (const Taken& one : all) totals.push_back(one.total);
  std::sort(totals.begin(), totals.end());
  return {
      {"mode", mode.name},
      {"force_exit", mode.force_exit ? ordered_json(*mode.force_exit) : ordered_json()},
      {"prefix", prefix},
      {"p50_ms", percentile(totals, 0.5)},
      {"p90_ms", percentile(totals, 0.9)},
      {"p99_ms", percentile(totals, 0.99)},
      {"mean_ms", mean(&Taken::total)},
      {"mean_layers", mean(&Taken::layers)},
      {"prefix_tokens", mean(&Taken::prefix_tokens)},
      {"candidate_tokens", mean(&Taken::candidate_tokens)},
      {"retrieval_share", mean(&Taken::retrieval) / mean(&Taken::total)},
      {"stages_ms", {{"retrieval", mean(&Taken::retrieval)}, {"prefix", mean(&Taken::prefix)}, {"slate", mean(&Taken::slate)}}}};
}

// A row for each mode and state of the prefix.
ordered_json measure(Session& session, const std::vector<Mode>& modes, const std::vector<Slate>& slates) {
  std::vector<std::array<std::vector<Taken>, 2>> all(modes.size());
  for (const Slate& slate : slates) {
    for (std::size_t m = 0; m < modes.size(); ++m) {
      Request request(slate.user);
      request.items(slate.items);
      if (modes[m].force_exit) request.force_exit(*modes[m].force_exit);
      session.clear_cache();
      for (const int warm : {0, 1})
        all[m][static_cast<std::size_t>(warm)].push_back(taken(session.score(request).stats, slate.items.size()));
    }
  }
  ordered_json rows = ordered_json::array();
  for (std::size_t m = 0; m < modes.size(); ++m) {
    rows.push_back(row_of(modes[m], "cold", all[m][0]));
    rows.push_back(row_of(modes[m], "warm", all[m][1]));
  }
  return rows;
}

ordered_json machine() {
  utsname name{};
  uname(&name);
  std::string cpu = name.machine;
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != line.npos) {
      cpu = line.substr(line.find(": ") + 2);
      break;
    }
  cpu_set_t cores;
  const int count = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 0;
  return {{"cpu", cpu}, {"architecture", name.machine}, {"cores", count}, {"rexit", rexit_version()}};
}

void show(const ordered_json& report) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& mode : report["modes"]) {
    const auto& stages = mode["stages_ms"];
    rows.push_back({mode["mode"], mode["prefix"], fixed(mode["p50_ms"], 2), fixed(mode["p90_ms"], 2), fixed(mode["p99_ms"], 2),
                    fixed(mode["mean_layers"], 2), fixed(stages["retrieval"], 2), fixed(stages["prefix"], 2),
                    fixed(stages["slate"], 2)});
  }
  print_table(report["variant"].get<std::string>() + ": milliseconds for a slate of " + report["slate"].dump() + ", " +
                  report["requests"].dump() + " requests",
              {"", "prefix", "p50", "p90", "p99", "layers", "retrieval", "prefix", "slate"}, rows);
  const auto& first = report["modes"][0];
  std::printf("Tokens on average: %s in the prefix, %s of candidates\n", fixed(first["prefix_tokens"], 0).c_str(),
              fixed(first["candidate_tokens"], 0).c_str());
  std::printf("Open to first score: %s ms\n", fixed(report["open_to_first_score_ms"], 0).c_str());
  std::printf("Memory: %s MB peak, %s MB of it session buffers\n", fixed(report["peak_rss_bytes"].get<double>() / 1e6, 0).c_str(),
              fixed(report["session_bytes"].get<double>() / 1e6, 1).c_str());
  const auto& machine = report["machine"];
  std::printf("Machine: %s, %s cores, threads %s\n", machine["cpu"].get<std::string>().c_str(), machine["cores"].dump().c_str(),
              report["threads"] == 0 ? "one per core" : report["threads"].dump().c_str());
  if (!report["calibrated"].get<bool>()) std::puts("Not calibrated: every candidate runs to full depth.");
}

}  // namespace

int bench(const BenchOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const Bundle bundle(options.bundle, options.options);
  const auto opened = std::chrono::steady_clock::now();
  const std::vector<Slate> slates = draw(bundle, options);
  const auto drawn = std::chrono::steady_clock::now();
  Session session(bundle);
  session.score(Request(slates[0].user).items(slates[0].items));
  const std::chrono::duration<double, std::milli> first = (opened - begin) + (std::chrono::steady_clock::now() - drawn);
  session.warm_up();
  ordered_json rows = measure(session, modes_of(bundle), slates);

  const rexit_memory memory = session.memory();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const rexit_bundle_info info = bundle.info();
  std::string device = options.options.device;
  for (const rexit_variant_info& variant : variants(options.bundle))
    if (device.empty() && variant.name == std::string(info.variant)) device = variant.target;
  const ordered_json report{{"variant", info.variant},
                            {"slate", options.slate},
                            {"requests", options.requests},
                            {"threads", options.options.threads},
                            {"device", device},
                            {"calibrated", info.calibrated != 0},
                            {"modes", std::move(rows)},
                            {"open_to_first_score_ms", first.count()},
                            {"session_bytes", memory.prefixes + memory.buffers},
                            {"peak_rss_bytes", static_cast<std::int64_t>(usage.ru_maxrss) * 1024},
                            {"machine", machine()}};
  if (options.json) {
    print_json(report);
  } else {
    show(report);
  }
  return 0;
}

}  // namespace rexit::program

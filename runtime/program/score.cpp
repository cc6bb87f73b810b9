#include <algorithm>
#include <cmath>
#include <cstdio>

#include "commands.hpp"
#include "failure.hpp"
#include "ids.hpp"
#include "output.hpp"

namespace rexit::program {

namespace {

void print_report(const nlohmann::ordered_json& report, const std::vector<std::string>& objectives) {
  const auto text = [](const nlohmann::ordered_json& id) { return id.is_string() ? id.get<std::string>() : id.dump(); };
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : report["scores"]) {
    if (row["exit"].is_null()) {
      rows.push_back({text(row["item"]), "", "", "none (deadline)", "0"});
      rows.back().resize(rows.back().size() + objectives.size());
      continue;
    }
    rows.push_back({text(row["item"]), fixed(row["probability"], 4), (row["log_odds"] < 0 ? "" : "+") + fixed(row["log_odds"], 4),
                    row["exit"].dump() + (row["cut_short"] ? " (deadline)" : ""), row["layers"].dump()});
    for (const std::string& name : objectives) rows.back().push_back(fixed(row["objectives"][name], 4));
  }
  std::vector<std::string> columns = {"item", "probability", "log-odds", "exit", "layers"};
  columns.insert(columns.end(), objectives.begin(), objectives.end());
  print_table("User " + text(report["user"]) + ", " + report["variant"].get<std::string>(), columns, rows);
  const auto& stats = report["stats"];
  const auto ms = [&](const char* name, int digits) { return fixed(stats[name].get<double>() / 1000, digits); };
  std::printf("%s ms: retrieval %s, prefix %s (%s tokens), slate %s (%s tokens)\n", ms("total_us", 1).c_str(),
              ms("retrieval_us", 2).c_str(), ms("prefix_us", 1).c_str(), stats["prefix_tokens"].dump().c_str(),
              ms("slate_us", 1).c_str(), stats["candidate_tokens"].dump().c_str());
}

}  // namespace

std::int64_t deadline_us(double deadline_ms) {
  constexpr double max_ms = 1e12;
  if (!(deadline_ms > 0 && deadline_ms <= max_ms))
    throw Failure("deadline_ms is " + general(deadline_ms) + ", expected more than 0 and at most 1e12");
  return std::max<std::int64_t>(1, std::llround(deadline_ms * 1000));
}

int score(const ScoreOptions& options) {
  const Bundle bundle(options.bundle, options.options);
  const rexit_bundle_info info = bundle.info();
  const bool strings = info.string_item_ids != 0;
  const Id user = parse_id(options.user, info.string_user_ids != 0, "user");
  const std::vector<Id> items = parse_ids(options.items, strings, "item");
  const Recent recent = parse_recent(options.recent, strings);

  Request request(user);
  request.items(items).top_k(options.top_k);
  add_recent(request, recent);
  if (options.as_of) request.as_of(*options.as_of);
  for (const std::string& text : options.context) add_context(request, text);
  for (const std::string& text : options.request) add_request_text(request, text);
  if (options.force_exit) request.force_exit(*options.force_exit);
  if (options.deadline_ms) request.deadline_us(deadline_us(*options.deadline_ms));
  const std::vector<std::string> objectives = objective_names(bundle);

  const Scores scores = Session(bundle).score(request);
  if (scores.stats.known_user == 0)
    std::fprintf(stderr, "rexit-run: user %s is not in the catalog: %s\n", quote_id(user).c_str(),
                 recent.empty() ? "scored without any history" : "placed by --recent alone");
  nlohmann::ordered_json report{{"user", to_json(user)}, {"variant", info.variant}};
  report.update(answer_json(scores, items, depths(bundle), objectives));
  if (options.json) {
    print_json(report);
  } else {
    print_report(report, objectives);
  }
  return 0;
}

}  // namespace rexit::program

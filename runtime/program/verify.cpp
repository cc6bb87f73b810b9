#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "commands.hpp"

namespace rexit::program {

namespace {

using Lines = std::vector<std::string>;

// Columns on a terminal, approximately: code points.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// Aligns the first column left and the others right.
void print_table(const std::string& title, const Lines& columns, const std::vector<Lines>& rows) {
  std::vector<std::size_t> widths;
  for (std::size_t n = 0; n < columns.size(); ++n) {
    widths.push_back(width(columns[n]));
    for (const Lines& row : rows) widths[n] = std::max(widths[n], width(row[n]));
  }
  const auto print = [&](const Lines& row) {
    std::string line;
    for (std::size_t n = 0; n < row.size(); ++n) {
      const std::string space(widths[n] - width(row[n]), ' ');
      line += n == 0 ? row[n] + space : "  " + space + row[n];
    }
    std::puts(line.c_str());
  };
  std::puts(title.c_str());
  print(columns);
  for (const Lines& row : rows) print(row);
}

// In up to two digits.
std::string general(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  return text;
}

// A check of a variant, as in `rexit verify --json`.
struct Check {
  std::string variant, name, outcome, detail;
  Lines failures;
};

Check make_check(const std::string& variant, const char* name, const std::string& detail, Lines failures) {
  return {variant, name, failures.empty() ? "ok" : "FAILED", detail, std::move(failures)};
}

std::vector<Check> check_golden_samples(const Bundle& bundle, const std::string& name) {
  Session session(bundle);
  GoldenCheck check;
  Lines prompts, log_odds, decisions;
  std::size_t slate = 0, candidates = 0;
  float worst = 0;
  do {
    check = session.check_golden(slate);
    if (!check.prompt.empty()) prompts.push_back(name + ": " + check.prompt);
    if (!check.log_odds.empty()) log_odds.push_back(name + ": " + check.log_odds);
    if (!check.decision.empty()) decisions.push_back(name + ": " + check.decision);
    worst = std::max(worst, check.worst);
    candidates += check.candidates;
  } while (++slate < check.slates);
  const std::string size = std::to_string(check.slates) + " slates, " + std::to_string(candidates) + " candidates";
  std::vector<Check> checks;
  if (bundle.info().has_catalog != 0) checks.push_back(make_check(name, "prompts", size, std::move(prompts)));
  checks.push_back(
      make_check(name, "log-odds", "worst " + general(worst) + ", allowed " + general(check.tolerance), std::move(log_odds)));
  checks.push_back(make_check(name, "exit decisions", "cold and warm prefix", std::move(decisions)));
  return checks;
}

std::vector<Check> check_behaviour(const Options& options, const std::string& name) {
  BundleOptions bundle_options = options.execution;
  bundle_options.variant = name;
  try {
    const Bundle bundle(options.bundle, bundle_options);
    return check_golden_samples(bundle, name);
  } catch (const Error& error) {
    if (error.status() == REXIT_BACKEND_MISSING && options.execution.variant.empty() && options.execution.device.empty() &&
        options.execution.provider.empty())
      return {{name, "golden samples", "skipped", error.what(), {}}};
    return {make_check(name, "golden samples", "", {error.what()})};
  }
}

std::vector<Check> checks_of(const Options& options) {
  Lines names;
  try {
    for (const rexit_variant_info& variant : variants(options.bundle)) names.emplace_back(variant.name);
  } catch (const Error& error) {
    return {make_check(options.execution.variant, "structure", "", {error.what()})};
  }
  if (const std::string& only = options.execution.variant; !only.empty()) names = {only};
  std::vector<Check> checks;
  for (const std::string& name : names) {
    try {
      rexit::verify(options.bundle, name);
    } catch (const Error& error) {
      if (error.status() == REXIT_UNKNOWN_VARIANT) throw;
      checks.push_back(make_check(name, "digests", "", {error.what()}));
      continue;
    }
    checks.push_back(make_check(name, "digests", "", {}));
    for (Check& check : check_behaviour(options, name)) checks.push_back(std::move(check));
  }
  return checks;
}

void print_checks(const std::string& bundle, const std::vector<Check>& checks, const Lines& failures) {
  std::vector<Lines> rows;
  std::size_t skipped = 0;
  for (const Check& check : checks) {
    rows.push_back({check.variant, check.name, check.detail, check.outcome});
    skipped += check.outcome == "skipped" ? 1 : 0;
  }
  print_table(bundle, {"variant", "check", "", "outcome"}, rows);
  for (const std::string& line : failures) std::printf("FAILED %s\n", line.c_str());
  if (failures.empty() && skipped > 0) std::printf("All others passed, %zu skipped.\n", skipped);
  if (failures.empty() && skipped == 0) std::puts("All checks passed.");
}

}  // namespace

int verify(const Options& options) {
  const std::vector<Check> checks = checks_of(options);
  Lines failures;
  for (const Check& check : checks) failures.insert(failures.end(), check.failures.begin(), check.failures.end());
  if (options.json) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Check& check : checks)
      rows.push_back({{"variant", check.variant},
                      {"name", check.name},
                      {"outcome", check.outcome},
                      {"detail", check.detail},
                      {"failures", check.failures}});
    const nlohmann::ordered_json report = {{"ok", failures.empty()}, {"checks", rows}};
    std::puts(report.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  } else {
    print_checks(options.bundle, checks, failures);
  }
  return failures.empty() ? 0 : not_verified;
}

}  // namespace rexit::program

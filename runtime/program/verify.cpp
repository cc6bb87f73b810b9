#include <algorithm>
#include <cmath>
#include <cstdio>

#include "commands.hpp"
#include "failure.hpp"
#include "golden.hpp"
#include "ids.hpp"
#include "output.hpp"

namespace rexit::program {

namespace {

using Lines = std::vector<std::string>;

// One check of one variant, as `rexit verify --json` has it.
struct Check {
  std::string variant, name, outcome, detail;
  Lines failures;
};

Check checked(const std::string& variant, const char* name, const std::string& detail, Lines failures) {
  return {variant, name, failures.empty() ? "ok" : "FAILED", detail, std::move(failures)};
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  return text;
}

// The first difference between the prompt assembled here and the exporter's; nothing if they are the same.
Lines differences(const std::string& where, const std::vector<Id>& items, const Prompt& seen, const GoldenSlate& expected) {
  for (std::size_t part = 0; part + 1 < expected.offsets.size(); ++part) {
    const auto begin = expected.offsets[part], end = expected.offsets[part + 1];
    const std::string what = part == 0 ? "the prefix" : "item " + shown(items[part - 1]);
    const std::string line = where + ": the prompt of " + what + " differs from the exporter's: ";
    if (seen.offsets[part + 1] - seen.offsets[part] != end - begin)
      return {line + std::to_string(seen.offsets[part + 1] - seen.offsets[part]) + " tokens, expected " +
              std::to_string(end - begin)};
    for (std::size_t t = begin; t < end; ++t)
      if (seen.tokens[t] != expected.tokens[t])
        return {line + "token " + std::to_string(t - begin) + " is " + std::to_string(seen.tokens[t]) + ", expected " +
                std::to_string(expected.tokens[t])};
  }
  return {};
}

std::vector<Check> golden_samples(const Bundle& bundle, const std::string& name, const Golden& golden) {
  Session session(bundle);
  Lines prompts, values;
  double worst = 0;
  std::size_t candidates = 0;
  for (std::size_t g = 0; g < golden.slates.size(); ++g) {
    const GoldenSlate& slate = golden.slates[g];
    const Id user = bundle.id(REXIT_USERS, static_cast<std::size_t>(slate.user));
    std::vector<Id> items;
    for (const std::int32_t row : slate.items) items.push_back(bundle.id(REXIT_ITEMS, static_cast<std::size_t>(row)));
    candidates += items.size();
    const auto request = Request(user).items(items).as_of(slate.as_of);
    const std::string where = name + ": golden slate " + std::to_string(g) + ", user " + shown(user);
    for (std::string& line : differences(where, items, session.prompt(request), slate)) prompts.push_back(std::move(line));

    session.clear_cache();  // with keys copied from another prefix, log-odds may differ in their last bits
    const std::vector<float> seen = session.trace(request).log_odds;
    double most = -1;
    std::size_t at = 0;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const double apart = std::fabs(static_cast<double>(seen[i]) - static_cast<double>(slate.log_odds[i]));
      if (const double distance = std::isfinite(apart) ? apart : HUGE_VAL; distance > most) most = distance, at = i;
    }
    worst = std::max(worst, most);
    if (const std::size_t exits = seen.size() / items.size(); most > static_cast<double>(golden.tolerance))
      values.push_back(where + ", item " + shown(items[at / exits]) + ", exit " + std::to_string(at % exits) + ": log-odds " +
                       fixed(seen[at], 5) + ", expected " + fixed(slate.log_odds[at], 5) + " +- " +
                       short_number(golden.tolerance));
  }
  const std::string size = std::to_string(golden.slates.size()) + " slates, " + std::to_string(candidates) + " candidates";
  return {checked(name, "prompts", size, std::move(prompts)),
          checked(name, "log-odds", "worst " + short_number(worst) + ", allowed " + short_number(golden.tolerance),
                  std::move(values))};
}

std::vector<Check> behaviour(const Common& options, const std::string& name) {
  BundleOptions opening = options.options;
  opening.variant = name;
  try {
    const Bundle bundle(options.bundle, opening);
    return golden_samples(bundle, name, read_golden(options.bundle, name, bundle.info().exits));
  } catch (const Error& error) {
    if (error.status() == REXIT_BACKEND_MISSING && options.options.variant.empty() && options.options.device.empty())
      return {{name, "golden samples", "skipped", error.what(), {}}};
    return {checked(name, "golden samples", "", {error.what()})};
  } catch (const Failure& failure) {
    return {checked(name, "golden samples", "", {failure.what()})};
  }
}

std::vector<Check> checks_of(const Common& options) {
  Lines names;
  try {
    for (const rexit_variant_info& variant : variants(options.bundle)) names.emplace_back(variant.name);
  } catch (const Error& error) {
    return {checked(options.options.variant, "structure", "", {error.what()})};
  }
  if (const std::string& only = options.options.variant; !only.empty()) names = {only};
  std::vector<Check> checks;
  for (const std::string& name : names) {
    try {
      rexit::verify(options.bundle, name);
    } catch (const Error& error) {
      if (error.status() == REXIT_UNKNOWN_VARIANT) throw;
      checks.push_back(checked(name, "digests", "", {error.what()}));
      continue;
    }
    checks.push_back(checked(name, "digests", "", {}));
    for (Check& check : behaviour(options, name)) checks.push_back(std::move(check));
  }
  return checks;
}

void show(const std::string& bundle, const std::vector<Check>& checks, const Lines& failed) {
  std::vector<std::vector<std::string>> rows;
  std::size_t skipped = 0;
  for (const Check& check : checks) {
    rows.push_back({check.variant, check.name, check.detail, check.outcome});
    skipped += check.outcome == "skipped" ? 1 : 0;
  }
  print_table(bundle, {"variant", "check", "", "outcome"}, rows);
  for (const std::string& line : failed) std::printf("FAILED %s\n", line.c_str());
  if (failed.empty() && skipped > 0) std::printf("All others passed, %zu skipped.\n", skipped);
  if (failed.empty() && skipped == 0) std::puts("All checks passed.");
}

}  // namespace

int verify(const Common& options) {
  const std::vector<Check> checks = checks_of(options);
  Lines failed;
  for (const Check& check : checks) failed.insert(failed.end(), check.failures.begin(), check.failures.end());
  if (options.json) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Check& check : checks)
      rows.push_back({{"variant", check.variant},
                      {"name", check.name},
                      {"outcome", check.outcome},
                      {"detail", check.detail},
                      {"failures", check.failures}});
    print_json({{"ok", failed.empty()}, {"checks", rows}});
  } else {
    show(options.bundle, checks, failed);
  }
  return failed.empty() ? 0 : not_verified;
}

}  // namespace rexit::program

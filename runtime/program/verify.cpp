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

// A check of a variant, as in `rexit verify --json`.
struct Check {
  std::string variant, name, outcome, detail;
  Lines failures;
};

Check make_check(const std::string& variant, const char* name, const std::string& detail, Lines failures) {
  return {variant, name, failures.empty() ? "ok" : "FAILED", detail, std::move(failures)};
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  return text;
}

// Describes the first difference between the prompt assembled here and the exporter's; empty if they are equal.
Lines differences(const std::string& where, const std::vector<Id>& items, const Prompt& prompt, const GoldenSlate& expected) {
  for (std::size_t part = 0; part + 1 < expected.offsets.size(); ++part) {
    const auto begin = expected.offsets[part], end = expected.offsets[part + 1];
    const std::string part_name = part == 0 ? "the prefix" : "item " + quote_id(items[part - 1]);
    const std::string line = where + ": the prompt of " + part_name + " differs from the exporter's: ";
    const std::size_t length = prompt.offsets[part + 1] - prompt.offsets[part];
    if (length != end - begin) return {line + std::to_string(length) + " tokens, expected " + std::to_string(end - begin)};
    for (std::size_t t = begin; t < end; ++t)
      if (prompt.tokens[t] != expected.tokens[t])
        return {line + "token " + std::to_string(t - begin) + " is " + std::to_string(prompt.tokens[t]) + ", expected " +
                std::to_string(expected.tokens[t])};
  }
  return {};
}

TokenRequest token_request(const GoldenSlate& slate) {
  const auto part = [&slate](std::size_t i) {
    const auto at = [&](std::size_t offset) { return slate.tokens.begin() + static_cast<std::ptrdiff_t>(slate.offsets[offset]); };
    return std::vector<std::int32_t>(at(i), at(i + 1));
  };
  TokenRequest request(part(0));
  for (std::size_t i = 0; i < slate.items.size(); ++i) request.candidate(part(1 + i));
  return request;
}

std::vector<Check> check_golden_samples(const Bundle& bundle, const std::string& name, const Golden& golden) {
  Session session(bundle);
  const bool has_catalog = bundle.info().has_catalog != 0;
  Lines prompts, values;
  double worst = 0;
  std::size_t candidates = 0;
  for (std::size_t g = 0; g < golden.slates.size(); ++g) {
    const GoldenSlate& slate = golden.slates[g];
    std::string where = name + ": golden slate " + std::to_string(g);
    std::vector<Id> items;
    std::vector<float> log_odds;
    session.clear_cache();  // with keys copied from another prefix, log-odds may differ in their last bits
    if (has_catalog) {
      const Id user = bundle.id(REXIT_USERS, static_cast<std::size_t>(slate.user));
      for (const std::int32_t row : slate.items) items.push_back(bundle.id(REXIT_ITEMS, static_cast<std::size_t>(row)));
      where += ", user " + quote_id(user);
      auto request = Request(user).items(items).as_of(slate.as_of);
      for (const auto& [context, value] : slate.context) request.context(context, value);
      for (const auto& [text, tokens] : slate.texts) request.text(text, tokens);
      for (std::string& line : differences(where, items, session.prompt(request), slate)) prompts.push_back(std::move(line));
      log_odds = session.trace(request).log_odds;
    } else {
      for (const std::int32_t number : slate.items) items.emplace_back(std::int64_t{number});
      log_odds = session.trace(token_request(slate)).log_odds;
    }
    candidates += items.size();
    double largest = -1;
    std::size_t index = 0;
    for (std::size_t i = 0; i < log_odds.size(); ++i) {
      const double difference = std::fabs(static_cast<double>(log_odds[i]) - static_cast<double>(slate.log_odds[i]));
      const double error = std::isfinite(difference) ? difference : HUGE_VAL;
      if (error > largest) {
        largest = error;
        index = i;
      }
    }
    worst = std::max(worst, largest);
    const std::size_t width = log_odds.size() / items.size(), objectives = bundle.info().objectives;
    if (largest > static_cast<double>(golden.tolerance))
      values.push_back(
          where + ", item " + quote_id(items[index / width]) + ", exit " + std::to_string(index % width / objectives) +
          (objectives == 1 ? "" : std::string(", objective ") + bundle.objective(index % objectives).name) + ": log-odds " +
          fixed(log_odds[index], 5) + ", expected " + fixed(slate.log_odds[index], 5) + " +- " + short_number(golden.tolerance));
  }
  const std::string size = std::to_string(golden.slates.size()) + " slates, " + std::to_string(candidates) + " candidates";
  std::vector<Check> checks;
  if (has_catalog) checks.push_back(make_check(name, "prompts", size, std::move(prompts)));
  checks.push_back(make_check(name, "log-odds", "worst " + short_number(worst) + ", allowed " + short_number(golden.tolerance),
                              std::move(values)));
  return checks;
}

std::vector<Check> check_behaviour(const Common& options, const std::string& name) {
  BundleOptions bundle_options = options.options;
  bundle_options.variant = name;
  try {
    const Bundle bundle(options.bundle, bundle_options);
    return check_golden_samples(bundle, name, read_golden(bundle));
  } catch (const Error& error) {
    if (error.status() == REXIT_BACKEND_MISSING && options.options.variant.empty() && options.options.device.empty() &&
        options.options.provider.empty())
      return {{name, "golden samples", "skipped", error.what(), {}}};
    return {make_check(name, "golden samples", "", {error.what()})};
  } catch (const Failure& failure) {
    return {make_check(name, "golden samples", "", {failure.what()})};
  }
}

std::vector<Check> checks_of(const Common& options) {
  Lines names;
  try {
    for (const rexit_variant_info& variant : variants(options.bundle)) names.emplace_back(variant.name);
  } catch (const Error& error) {
    return {make_check(options.options.variant, "structure", "", {error.what()})};
  }
  if (const std::string& only = options.options.variant; !only.empty()) names = {only};
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
  std::vector<std::vector<std::string>> rows;
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

int verify(const Common& options) {
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
    print_json({{"ok", failures.empty()}, {"checks", rows}});
  } else {
    print_checks(options.bundle, checks, failures);
  }
  return failures.empty() ? 0 : not_verified;
}

}  // namespace rexit::program

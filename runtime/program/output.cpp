#include "output.hpp"

#include <algorithm>
#include <cstdio>

#include "ids.hpp"

namespace rexit::program {

using nlohmann::ordered_json;

namespace {

// Columns on a terminal, approximately: code points.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

void print_table(const std::string& title, const std::vector<std::string>& columns,
                 const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (std::size_t n = 0; n < columns.size(); ++n) {
    widths.push_back(width(columns[n]));
    for (const auto& row : rows) widths[n] = std::max(widths[n], width(row[n]));
  }
  const auto print = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t n = 0; n < row.size(); ++n) {
      const std::string space(widths[n] - width(row[n]), ' ');
      line += n == 0 ? row[n] + space : "  " + space + row[n];
    }
    std::puts(line.c_str());
  };
  std::puts(title.c_str());
  print(columns);
  for (const auto& row : rows) print(row);
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string general(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void print_json(const ordered_json& value) {
  std::puts(value.dump(1, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

std::string on_one_line(const ordered_json& value) { return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

ordered_json answer_json(const Scores& scores, const std::vector<Id>& items, const std::vector<std::size_t>& depths,
                         const std::vector<std::string>& objectives) {
  ordered_json rows = ordered_json::array();
  for (const rexit_score& score : scores.scores) {
    const bool has_exit = score.exit != REXIT_NO_EXIT;
    const auto or_null = [&](auto value) { return has_exit ? ordered_json(value) : ordered_json(); };
    rows.push_back({{"item", to_json(items[score.item])},
                    {"probability", or_null(score.probability)},
                    {"log_odds", or_null(score.log_odds)},
                    {"exit", or_null(score.exit)},
                    {"layers", has_exit ? depths[score.exit] : 0},
                    {"cut_short", score.cut_short != 0}});
    if (objectives.empty()) continue;
    ordered_json by_name = has_exit ? ordered_json::object() : ordered_json();
    const float* probabilities = scores.probabilities.data() + (rows.size() - 1) * objectives.size();
    for (std::size_t k = 0; has_exit && k < objectives.size(); ++k) by_name[objectives[k]] = probabilities[k];
    rows.back()["objectives"] = std::move(by_name);
  }
  const rexit_stats& stats = scores.stats;
  return {{"known", stats.known_user != 0},
          {"scores", std::move(rows)},
          {"stats",
           {{"prefix_tokens", stats.prefix_tokens},
            {"prefix_tokens_reused", stats.prefix_tokens_reused},
            {"candidate_tokens", stats.candidate_tokens},
            {"candidate_layers", stats.candidate_layers},
            {"prefix_layers", stats.prefix_layers},
            {"retrieval_us", stats.retrieval_us},
            {"prefix_us", stats.prefix_us},
            {"slate_us", stats.slate_us},
            {"total_us", stats.total_us}}}};
}

std::vector<std::size_t> depths(const Bundle& bundle) {
  std::vector<std::size_t> depths;
  for (std::size_t k = 0; k < bundle.info().exits; ++k) depths.push_back(bundle.exit(k).layers);
  return depths;
}

std::vector<std::string> objective_names(const Bundle& bundle) {
  std::vector<std::string> names;
  const std::size_t count = bundle.info().objectives;
  for (std::size_t k = 0; count != 1 && k < count; ++k) names.emplace_back(bundle.objective(k).name);
  return names;
}

}  // namespace rexit::program

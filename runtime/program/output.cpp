#include "output.hpp"

#include <algorithm>
#include <cstdio>

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

std::string general(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

void print_json(const ordered_json& value) {
  std::puts(value.dump(1, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

std::string on_one_line(const ordered_json& value) { return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

}  // namespace rexit::program

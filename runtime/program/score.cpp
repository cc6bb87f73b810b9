#include <charconv>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "commands.hpp"
#include "failure.hpp"
#include "output.hpp"

namespace rexit::program {

namespace {

using nlohmann::ordered_json;

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  return begin == text.npos ? std::string_view{} : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The non-empty parts between commas. As in CSV, quotes around a part keep its commas, and two quotes in it are one. Only blanks
// may surround the quotes.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::string part;
  bool quoted = false, closed = false;
  const auto add = [&] {
    if (const auto id = trimmed(part); !id.empty()) parts.emplace_back(id);
    part.clear();
    closed = false;
  };
  for (std::size_t n = 0; n < text.size(); ++n) {
    const char letter = text[n];
    if (quoted && letter == '"') {
      quoted = n + 1 < text.size() && text[n + 1] == '"';
      closed = !quoted;
      if (quoted) part += text[++n];
    } else if (closed && letter != ',') {
      if (letter != ' ' && letter != '\t') throw Failure("'" + text + "': expected a comma behind a closing quote");
    } else if (!quoted && letter == '"' && trimmed(part).empty()) {
      quoted = true;
    } else if (!quoted && letter == ',') {
      add();
    } else {
      part += letter;
    }
  }
  if (quoted) throw Failure("'" + text + "': expected ids separated by commas, with a closing quote");
  add();
  return parts;
}

// What is no integer stays a string, which a catalog of integers refuses: so does 007, since two ids must never become one.
ordered_json id_of(const std::string& text, bool strings) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_integer = error == std::errc{} && end == text.data() + text.size() && std::to_string(number) == text;
  return strings || !is_integer ? ordered_json(text) : ordered_json(number);
}

// `ITEM`, `ITEM:1` for liked, `ITEM:0` for not liked.
ordered_json interaction_of(const std::string& text, bool strings) {
  const std::size_t size = text.size();
  const bool has_verdict = size >= 2 && text[size - 2] == ':' && (text[size - 1] == '0' || text[size - 1] == '1');
  if (!has_verdict) return id_of(text, strings);
  return {id_of(text.substr(0, size - 2), strings), text[size - 1] == '1'};
}

// Adds what `NAME=VALUE` says; a value in brackets is token ids.
void add_input(ordered_json& inputs, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == text.npos || equals == 0)
    throw Failure("--input is '" + text + "', expected NAME=VALUE, as in device=tv or query=[17,4,9]");
  const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
  if (inputs.contains(name)) throw Failure("--input has '" + name + "' twice, expected each name once");
  ordered_json tokens = value.rfind('[', 0) == 0 ? ordered_json::parse(value, nullptr, false) : ordered_json();
  inputs[name] = tokens.is_array() ? tokens : ordered_json(value);
}

ordered_json request_of(const ScoreOptions& options, const rexit_bundle_info& info) {
  const bool strings = info.string_item_ids != 0;
  ordered_json request{{"user", id_of(options.user, info.string_user_ids != 0)}, {"items", ordered_json::array()}};
  for (const std::string& item : split(options.items)) request["items"].push_back(id_of(item, strings));
  for (const std::string& text : split(options.recent)) request["recent"].push_back(interaction_of(text, strings));
  for (const std::string& text : options.inputs) add_input(request["inputs"], text);
  if (options.as_of) request["as_of"] = *options.as_of;
  if (options.top_k) request["top_k"] = *options.top_k;
  if (options.force_exit) request["force_exit"] = *options.force_exit;
  if (options.deadline_ms) {
    if (!std::isfinite(*options.deadline_ms))  // JSON has no such number
      throw Failure("deadline_ms is " + general(*options.deadline_ms) + ", expected a number above 0 and at most 1e12");
    request["deadline_ms"] = *options.deadline_ms;
  }
  return request;
}

std::string text_of(const ordered_json& id) { return id.is_string() ? id.get<std::string>() : id.dump(); }

void print_report(const ordered_json& report) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : report["scores"]) {
    if (row["exit"].is_null()) {
      rows.push_back({text_of(row["item"]), "", "", "none (deadline)", "0"});
      continue;
    }
    rows.push_back({text_of(row["item"]), fixed(row["probability"], 4),
                    (row["log_odds"] < 0 ? "" : "+") + fixed(row["log_odds"], 4),
                    row["exit"].dump() + (row["cut_short"] ? " (deadline)" : ""), row["layers"].dump()});
  }
  print_table("User " + text_of(report["user"]) + ", " + report["variant"].get<std::string>(),
              {"item", "probability", "log-odds", "exit", "layers"}, rows);
  const auto& stats = report["stats"];
  const auto ms = [&](const char* name, int digits) { return fixed(stats[name].get<double>() / 1000, digits); };
  std::printf("%s ms: retrieval %s, prefix %s (%s tokens), slate %s (%s tokens)\n", ms("total_us", 1).c_str(),
              ms("retrieval_us", 2).c_str(), ms("prefix_us", 1).c_str(), stats["prefix_tokens"].dump().c_str(),
              ms("slate_us", 1).c_str(), stats["candidate_tokens"].dump().c_str());
}

}  // namespace

int score(const ScoreOptions& options) {
  const Bundle bundle(options.bundle, options.options);
  const std::string answer = Session(bundle).score_json(on_one_line(request_of(options, bundle.info()))).text;
  const ordered_json report = ordered_json::parse(answer);
  if (!report["known"].get<bool>())
    std::fprintf(stderr, "rexit-run: user %s is not in the catalog: %s\n",
                 report["user"].is_string() ? ("'" + text_of(report["user"]) + "'").c_str() : text_of(report["user"]).c_str(),
                 options.recent.empty() ? "scored without any history" : "placed by --recent alone");
  if (options.json) {
    std::puts(answer.c_str());
  } else {
    print_report(report);
  }
  return 0;
}

}  // namespace rexit::program

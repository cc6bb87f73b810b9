// Scores items for a user: rexit_score [--raw] BUNDLE USER ITEM...
//
// Prints a table of items, probabilities, log-odds and exit depths, then the request's times. --raw prints only a line per item,
// with all digits.
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "rexit/rexit.hpp"

namespace {

rexit::Id parse(const char* text, bool is_string) {
  if (is_string) return std::string(text);
  return std::int64_t{std::stoll(text)};
}

void print_table(const rexit::Bundle& bundle, char** items, const rexit::Scores& result) {
  std::printf("%-16s %12s %10s %8s\n", "item", "probability", "log-odds", "layers");
  for (const rexit_score& score : result.scores)
    std::printf("%-16s %12.4f %+10.4f %8zu\n", items[score.item], static_cast<double>(score.probability),
                static_cast<double>(score.log_odds), bundle.exit(score.exit).layers);
  const rexit_stats& stats = result.stats;
  std::printf("%.1f ms: retrieval %.2f, prefix %.1f (%llu tokens), slate %.1f (%llu tokens), %.1f of %zu layers on average\n",
              stats.total_us / 1000, stats.retrieval_us / 1000, stats.prefix_us / 1000,
              static_cast<unsigned long long>(stats.prefix_tokens), stats.slate_us / 1000,
              static_cast<unsigned long long>(stats.candidate_tokens),
              static_cast<double>(stats.candidate_layers) / static_cast<double>(result.scores.size()), bundle.info().layers);
}

void print_raw(char** items, const rexit::Scores& result) {
  for (const rexit_score& score : result.scores)
    std::printf("%s %.9g %.9g %u\n", items[score.item], static_cast<double>(score.probability),
                static_cast<double>(score.log_odds), score.exit);
}

}  // namespace

int main(int argc, char** argv) {
  const bool raw = argc > 1 && std::strcmp(argv[1], "--raw") == 0;
  char** arguments = argv + (raw ? 2 : 1);
  const int count = argc - (raw ? 2 : 1);
  if (count < 3) {
    std::fprintf(stderr, "usage: rexit_score [--raw] BUNDLE USER ITEM...\n");
    return 2;
  }
  try {
    const rexit::Bundle bundle(arguments[0]);
    const rexit_bundle_info info = bundle.info();
    std::vector<rexit::Id> items;
    for (int i = 2; i < count; ++i) items.push_back(parse(arguments[i], info.string_item_ids != 0));

    rexit::Session session(bundle);
    const rexit::Scores result = session.score(rexit::Request(parse(arguments[1], info.string_user_ids != 0)).items(items));
    if (raw) {
      print_raw(arguments + 2, result);
    } else {
      print_table(bundle, arguments + 2, result);
    }
    return 0;
  } catch (const rexit::Error& error) {
    std::fprintf(stderr, "rexit_score: %s (%s)\n", error.what(), rexit_status_name(error.status()));
  } catch (const std::exception&) {
    std::fprintf(stderr, "rexit_score: USER and ITEM must be integers, as this bundle's ids are\n");
  }
  return 1;
}

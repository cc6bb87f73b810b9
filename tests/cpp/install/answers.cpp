// What a bundle answers on this system: answers BUNDLE USER ITEM... checks the bundle's digests and the golden samples of the
// first variant, then prints for each variant the log-odds of the items at every exit, and their scores. Integer ids.
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "rexit/rexit.hpp"

namespace {

void check_golden(rexit::Session& session) {
  rexit::GoldenCheck check;
  std::size_t slate = 0;
  do {
    check = session.check_golden(slate);
    if (!check.prompt.empty()) throw std::runtime_error(check.prompt);
    if (!check.log_odds.empty()) throw std::runtime_error(check.log_odds);
    if (!check.decision.empty()) throw std::runtime_error(check.decision);
  } while (++slate < check.slates);
}

void print(const char* bundle, const rexit_variant_info& variant, bool has_golden, const rexit::Request& request) {
  rexit::BundleOptions options;
  options.variant = variant.name;
  rexit::Session session(rexit::Bundle(bundle, options));
  if (has_golden) check_golden(session);
  for (const float log_odds : session.trace(request).log_odds)
    std::printf("%s %.9g\n", variant.name, static_cast<double>(log_odds));
  for (const rexit_score& score : session.score(request).scores)
    std::printf("%s-exit-%u %.9g\n", variant.name, score.exit, static_cast<double>(score.log_odds));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  try {
    std::vector<rexit::Id> items;
    for (int i = 3; i < argc; ++i) items.push_back(std::int64_t{std::stoll(argv[i])});
    const rexit::Request request = rexit::Request(std::int64_t{std::stoll(argv[2])}).items(items);
    rexit::verify(argv[1]);
    bool first = true;
    for (const rexit_variant_info& variant : rexit::variants(argv[1])) {
      print(argv[1], variant, first, request);
      first = false;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "answers: %s\n", error.what());
    return 1;
  }
}

#include "target.hpp"

#include <cmath>
#include <fstream>
#include <iterator>

#include "files/file_list.hpp"

namespace rexit::fuzz {

tar::Files bundle_files(const std::uint8_t* data, std::size_t size) {
  tar::Files files = tar::unpack({reinterpret_cast<const char*>(data), size});
  for (auto file = files.begin(); file != files.end();)
    file = core::path_error(file->first) != nullptr ? files.erase(file) : std::next(file);
  return files;
}

tar::Files seed_bundle(const char* name) {
  std::ifstream file(std::string(REXIT_FUZZ_SEEDS) + "/bundle/" + name, std::ios::binary);
  return tar::unpack({std::istreambuf_iterator<char>(file), {}});
}

OpenedSeed::OpenedSeed(const char* seed) : name(seed), folder(seed_bundle(seed)) {
  REXIT_PROMISE(ok(rexit_bundle_open(folder.path().c_str(), nullptr, &bundle)));
}

OpenedSeed::~OpenedSeed() { rexit_bundle_close(bundle); }

namespace {

bool one_line(const char* text) {
  for (; *text != '\0'; ++text)
    if (static_cast<unsigned char>(*text) < 0x20 || *text == 0x7f) return false;
  return true;
}

}  // namespace

void say(const char* text) {
  static const bool verbose = std::getenv("REXIT_FUZZ_SAY") != nullptr;
  if (verbose) std::fprintf(stderr, "refused: %s\n", text);
}

bool ok(rexit_status status) {
  if (status == REXIT_OK) return true;
  REXIT_PROMISE(status != REXIT_INTERNAL);
  REXIT_PROMISE(std::strcmp(rexit_status_name(status), "unknown status") != 0);
  REXIT_PROMISE(*rexit_last_error() != '\0' && one_line(rexit_last_error()));
  say(rexit_last_error());
  return false;
}

namespace {

constexpr std::size_t max_session_bytes = std::size_t{16} << 20;  // a warm-up takes as much memory as the bundle claims

void use_session(const rexit_bundle* bundle, const rexit_bundle_info& info, std::size_t session_bytes) {
  rexit_session_options options{};
  options.cache_bytes = 1 << 12;
  rexit_session* session = nullptr;
  if (!ok(rexit_session_create(bundle, &options, &session))) return;

  // Users and items of the seeds, as builders/bundles/catalog.py numbers them.
  const bool has_strings = info.string_item_ids != 0;
  const char* const users[] = {"106", "103", "-1"};
  const char* const named[] = {"\"user-ü0002\"", "\"user-ü0001\"", "\"nobody\""};
  const std::string items = has_strings ? R"("item-ü0000","item-ü0002")" : "-7,3", last = has_strings ? R"("item-ü0003")" : "8";
  for (std::size_t round = 0; round < 4; ++round) {
    const std::size_t candidates = 3 - round % 2;
    std::string json = "{";
    if (info.has_catalog == 0) {
      json += round % 2 != 0 ? R"("prefix":[3],"candidates":[[4],[5,6]])" : R"("candidates":[[4],[5,6],[5]])";
    } else {
      json += R"("user":)" + std::string((info.string_user_ids != 0 ? named : users)[round % 3]) + R"(,"items":[)" + items;
      json += (candidates == 3 ? "," + last : "") + "]";
      if (round != 0) json += R"(,"recent":[)" + last + ",[" + last + ",false]]";
      if (round == 3) json += R"(,"as_of":35)";
    }
    if (info.scores != 0) json += candidates == 3 ? R"(,"scores":{"bm25":[-0.5,2,null]})" : R"(,"scores":{"bm25":[-0.5,2]})";
    json += "}";
    rexit_stats stats{};
    const rexit_score* scores = nullptr;
    std::size_t count = 0;
    if (ok(rexit_session_score(session, json.data(), json.size(), nullptr, &scores, &count, &stats))) {
      REXIT_PROMISE(count == candidates);
      for (std::size_t i = 0; i < count; ++i)
        REXIT_PROMISE(scores[i].item == i && scores[i].exit < info.exits && scores[i].probability >= 0 &&
                      scores[i].probability <= 1);
    }
    const float* traced = nullptr;
    if (ok(rexit_session_trace(session, json.data(), json.size(), &traced, &count, nullptr))) REXIT_PROMISE(count == candidates);
    rexit_prompt prompt{};
    if (ok(rexit_session_prompt(session, json.data(), json.size(), &prompt)))
      REXIT_PROMISE(prompt.candidate_count == candidates && prompt.ends[candidates] <= info.max_positions * candidates);
  }
  const std::string retrieving =
      R"({"user":)" + std::string((info.string_user_ids != 0 ? named : users)[0]) + R"(,"retrieve":2,"recent":[)" + last + "]}";
  const rexit_score* scores = nullptr;
  std::size_t count = 0;
  if (ok(rexit_session_score(session, retrieving.data(), retrieving.size(), nullptr, &scores, &count, nullptr))) {
    REXIT_PROMISE(count == 1 || count == 2);
    rexit_item_id id{};
    for (std::size_t i = 0; i < count; ++i) ok(rexit_session_get_item(session, i, &id));
  }
  if (session_bytes <= max_session_bytes) ok(rexit_session_warm_up(session));
  ok(rexit_session_trim(session));
  rexit_session_destroy(session);
}

}  // namespace

void use_opened(const std::string& path, const rexit_bundle* bundle) {
  rexit_variant_info described{};
  const bool known = ok(rexit_bundle_get_variant(path.c_str(), 0, &described));
  rexit_bundle_info info{};
  REXIT_PROMISE(ok(rexit_bundle_get_info(bundle, &info)));
  for (std::size_t k = 0; k < info.exits; ++k) {
    rexit_exit_info exit{};
    REXIT_PROMISE(ok(rexit_bundle_get_exit(bundle, k, &exit)));
  }
  use_session(bundle, info, known ? described.session_bytes : SIZE_MAX);
}

void use_bundle(const std::string& path) {
  rexit_set_log([](void*, rexit_log_level, const char* line) { REXIT_PROMISE(one_line(line)); }, nullptr, REXIT_LOG_DEBUG);
  rexit_bundle_options options{};
  options.threads = 1;
  rexit_bundle* bundle = nullptr;
  if (ok(rexit_bundle_open(path.c_str(), &options, &bundle))) {
    use_opened(path, bundle);
    rexit_bundle_close(bundle);
  } else {
    REXIT_PROMISE(bundle == nullptr);
  }
  ok(rexit_bundle_verify(path.c_str(), nullptr));  // sound, where only the backend refused
}

}  // namespace rexit::fuzz

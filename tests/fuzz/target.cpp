#include "target.hpp"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace rexit::fuzz {

namespace fs = std::filesystem;

ArchiveFile::ArchiveFile() {
  std::string name = fs::temp_directory_path() / "rexit-XXXXXX";
  const int file = ::mkstemp(name.data());
  if (file < 0) std::abort();
  ::close(file);
  path_ = name;
}

ArchiveFile::~ArchiveFile() { ::unlink(path_.c_str()); }

void ArchiveFile::replace(const std::uint8_t* data, std::size_t size) const {
  std::ofstream file(path_ + ".new", std::ios::binary);
  file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  file.close();
  if (!file) std::abort();
  fs::rename(path_ + ".new", path_);
}

std::string seed_bundle(const char* name) {
  std::ifstream file(std::string(REXIT_FUZZ_SEEDS) + "/bundle/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

OpenedSeed::OpenedSeed(const char* seed) : name(seed), archive(seed_bundle(seed)) {
  REXIT_PROMISE(ok(rexit_archive_open(archive.data(), archive.size(), nullptr, &bundle)));
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
  options.struct_size = sizeof options;
  options.cache_bytes = 1 << 12;
  rexit_session* session = nullptr;
  if (!ok(rexit_session_create(bundle, &options, &session))) return;

  // Users and items of the seeds, as builders/bundles/catalog.py numbers them.
  const auto id = [](bool strings, std::int64_t number, const char* text) {
    return strings ? rexit_id{0, text} : rexit_id{number, nullptr};
  };
  const rexit_id users[] = {id(info.string_user_ids != 0, 106, "user-ü0002"), id(info.string_user_ids != 0, 103, "user-ü0001"),
                            id(info.string_user_ids != 0, -1, "nobody")};
  const rexit_id items[] = {id(info.string_item_ids != 0, -7, "item-ü0000"), id(info.string_item_ids != 0, 3, "item-ü0002"),
                            id(info.string_item_ids != 0, 8, "item-ü0003")};
  const std::uint8_t liked[] = {1, 0};
  const std::int32_t tokens[] = {3, 4, 5, 6, 5};
  const std::size_t counts[] = {1, 2, 1};
  const float scores_in[] = {-0.5f, 2, 0.25f};
  for (std::size_t round = 0; round < 4; ++round) {
    rexit_request request{};
    request.struct_size = sizeof request;
    request.id_size = sizeof(rexit_id);
    request.score_size = sizeof(rexit_score);
    request.user = &users[round % 3];
    request.items = items;
    request.item_count = 3 - round % 2;
    request.recent_items = items + 1;
    request.recent_liked = liked;
    request.recent_count = round == 0 ? 0 : 2;
    request.has_as_of = round == 3;
    request.as_of = 35;
    const std::size_t candidates = request.item_count;
    const rexit_tokens prompt{sizeof prompt, tokens, round % 2, tokens + 1, counts, candidates};
    if (info.has_catalog == 0) {
      request.user = nullptr;
      request.item_count = request.recent_count = 0;
      request.has_as_of = 0;
      request.tokens = &prompt;
    }
    if (info.scores != 0) request.scores = scores_in;
    rexit_stats stats{};
    stats.struct_size = sizeof stats;
    rexit_score scores[3];
    if (ok(rexit_session_score(session, &request, scores, &stats)))
      for (std::size_t i = 0; i < candidates; ++i)
        REXIT_PROMISE(scores[i].item == i && scores[i].exit < info.exits && scores[i].probability >= 0 &&
                      scores[i].probability <= 1);
    std::vector<float> traced(candidates * info.exits);
    ok(rexit_session_trace(session, &request, traced.data(), nullptr));
    std::size_t offsets[5], count = 0;
    if (ok(rexit_session_prompt(session, &request, nullptr, 0, nullptr, &count))) {
      REXIT_PROMISE(count <= info.max_positions * candidates);
      std::vector<std::int32_t> tokens(count);
      REXIT_PROMISE(ok(rexit_session_prompt(session, &request, tokens.data(), tokens.size(), offsets, &count)));
      REXIT_PROMISE(offsets[0] == 0 && offsets[1 + candidates] == count);
    }
  }
  if (session_bytes <= max_session_bytes) ok(rexit_session_warm_up(session));
  ok(rexit_session_trim(session));
  rexit_session_destroy(session);
}

}  // namespace

void use_opened(const std::string& path, const rexit_bundle* bundle) {
  rexit_variant_info described{};
  described.struct_size = sizeof described;
  const bool known = ok(rexit_bundle_get_variant(path.c_str(), 0, &described));
  rexit_bundle_info info{};
  info.struct_size = sizeof info;
  REXIT_PROMISE(ok(rexit_bundle_get_info(bundle, &info)));
  for (std::size_t k = 0; k < info.exits; ++k) {
    rexit_exit_info exit{};
    exit.struct_size = sizeof exit;
    REXIT_PROMISE(ok(rexit_bundle_get_exit(bundle, k, &exit)));
  }
  use_session(bundle, info, known ? described.session_bytes : SIZE_MAX);
}

void use_bundle(const std::string& path) {
  rexit_set_log([](void*, rexit_log_level, const char* line) { REXIT_PROMISE(one_line(line)); }, nullptr, REXIT_LOG_DEBUG);
  rexit_bundle_options options{};
  options.struct_size = sizeof options;
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

// A file of saved prefixes: loaded twice, used, and saved again.
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace rexit::fuzz;
  struct Opened {
    Folder folder;
    rexit_session* session = nullptr;
    Opened() {
      folder.put(seed_bundle("vectors"));
      rexit_bundle* bundle = nullptr;
      rexit_session_options options{};
      options.struct_size = sizeof options;
      options.cache_bytes = 1 << 16;
      REXIT_PROMISE(rexit_bundle_open(folder.path().c_str(), nullptr, &bundle) == REXIT_OK);
      REXIT_PROMISE(rexit_session_create(bundle, &options, &session) == REXIT_OK);
      rexit_bundle_close(bundle);
    }
    ~Opened() { rexit_session_destroy(session); }
  };
  static Opened opened;
  static Folder folder;
  static const std::string saved = folder.path() + "/saved";
  const std::string path = folder.put("input", data, size);

  const rexit_id items[] = {{-7, nullptr}, {3, nullptr}};
  rexit_id user{106, nullptr};
  rexit_request request{};
  request.struct_size = sizeof request;
  request.id_size = sizeof user;
  request.user = &user;
  request.items = items;
  request.item_count = 2;
  const auto trace = [&] {
    float log_odds[6];
    REXIT_PROMISE(ok(rexit_session_trace(opened.session, &request, log_odds, nullptr)));
  };
  rexit_memory before{}, after{};
  before.struct_size = after.struct_size = sizeof before;
  REXIT_PROMISE(ok(rexit_session_clear_cache(opened.session)));
  trace();
  REXIT_PROMISE(ok(rexit_session_get_memory(opened.session, &before)));
  if (!ok(rexit_session_load_cache(opened.session, path.c_str()))) {
    REXIT_PROMISE(ok(rexit_session_get_memory(opened.session, &after)) && after.prefixes == before.prefixes);
  } else {
    for (user.number = 100; user.number < 112; user.number += 3) trace();
    REXIT_PROMISE(ok(rexit_session_load_cache(opened.session, path.c_str())));
    REXIT_PROMISE(ok(rexit_session_save_cache(opened.session, saved.c_str())));
    REXIT_PROMISE(ok(rexit_session_load_cache(opened.session, saved.c_str())));
  }
  return 0;
}

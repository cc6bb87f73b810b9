// Any text as a request in JSON. An accepted one is answered in JSON.
#include <cstring>
#include <nlohmann/json.hpp>

#include "files/json.hpp"
#include "target.hpp"

namespace {

using namespace rexit::fuzz;

rexit_session* open_session(const OpenedSeed& seed) {
  rexit_session* session = nullptr;
  REXIT_PROMISE(ok(rexit_session_create(seed.bundle, nullptr, &session)));
  return session;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const OpenedSeed plain("plain"), strings("strings"), inputs("inputs"), zero("zero"), scores("scores");
  static rexit_session* const sessions[] = {open_session(plain), open_session(strings), open_session(inputs), open_session(zero),
                                            open_session(scores)};
  static constexpr std::int32_t tokens[] = {4, 5};
  const std::string text(reinterpret_cast<const char*>(data), size);
  const rexit_input query{"query", nullptr, tokens, 2, 0};
  rexit_json_options options{};
  options.struct_size = sizeof options;
  options.input_size = sizeof query;
  options.texts = &query;
  for (rexit_session* session : sessions) {
    for (options.text_count = 0; options.text_count < 2; ++options.text_count) {
      const char* answer = nullptr;
      std::size_t bytes = 0;
      if (!ok(rexit_session_score_json(session, text.data(), text.size(), &options, &answer, &bytes, nullptr))) {
        REXIT_PROMISE(answer == nullptr && bytes == 0);
        continue;
      }
      REXIT_PROMISE(std::strlen(answer) == bytes && std::strchr(answer, '\n') == nullptr);
      const nlohmann::json request = nlohmann::json::parse(text), parsed = nlohmann::json::parse(answer);
      REXIT_PROMISE(!parsed["scores"].empty());
      for (const char* key : {"id", "user"})
        REXIT_PROMISE(!request.contains(key) || request[key].is_null() || request[key] == parsed[key]);
    }
  }
  return 0;
}

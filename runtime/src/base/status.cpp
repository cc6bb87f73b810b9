#include "base/status.hpp"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <new>

namespace rexit::core {
namespace {

// Fixed storage: reporting an out-of-memory error must not allocate.
thread_local char last_error_text[1024] = "";

// Length in bytes of the UTF-8 character at `text`; 0 if it is not valid UTF-8.
size_t character_bytes(const char* text) noexcept {
  const auto first = static_cast<unsigned char>(*text);
  const size_t bytes = first < 0x80                    ? 1
                       : first >= 0xc2 && first < 0xe0 ? 2
                       : first >= 0xe0 && first < 0xf0 ? 3
                       : first >= 0xf0 && first < 0xf5 ? 4
                                                       : 0;
  for (size_t i = 1; i < bytes; ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  if (bytes < 3) return bytes;
  const auto second = static_cast<unsigned char>(text[1]);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate = first == 0xed && second >= 0xa0;
  const bool beyond_unicode = first == 0xf4 && second >= 0x90;
  return overlong || surrogate || beyond_unicode ? 0 : bytes;
}

// Whether a valid character is U+0000 to U+001F or U+007F to U+009F.
bool is_control(const char* text) noexcept {
  const auto first = static_cast<unsigned char>(text[0]);
  return first < 0x20 || first == 0x7f || (first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0);
}

// Copies `text` to `to` as one line of valid UTF-8 without control characters, cut to `size` bytes including the NUL. Messages
// quote damaged files.
void copy_clean(const char* text, char* to, size_t size) noexcept {
  size_t n = 0;
  while (*text != '\0') {
    const size_t bytes = character_bytes(text);
    const size_t room = size - 1 - n;
    if (bytes > room || room == 0) break;
    if (bytes == 0 || is_control(text)) {
      to[n++] = bytes == 0 ? '?' : ' ';
      text += bytes == 0 ? 1 : bytes;
      continue;
    }
    for (size_t i = 0; i < bytes; ++i) to[n++] = *text++;
  }
  to[n] = '\0';
}

void set_last_error(const char* text) noexcept { copy_clean(text, last_error_text, sizeof last_error_text); }

struct Sink {
  void (*call)(void*, rexit_log_level, const char*) = nullptr;
  void* context = nullptr;
  rexit_log_level level = REXIT_LOG_ERROR;
};

struct Log {
  std::mutex mutex;
  Sink sink;
};

// Never destroyed: ONNX Runtime's threads may still log while the process exits.
Log& global_log() {
  static Log* log = new Log;
  return *log;
}

}  // namespace

void MessagePart::print(double number) noexcept {
  // As "%g" prints it, but with a point in every locale.
  const auto end = std::to_chars(digits_, digits_ + sizeof digits_, number, std::chars_format::general, 6).ptr;
  text_ = {digits_, static_cast<size_t>(end - digits_)};
}

void MessagePart::print(long long number) noexcept {
  text_ = {digits_, static_cast<size_t>(std::to_chars(digits_, digits_ + sizeof digits_, number).ptr - digits_)};
}

void MessagePart::print(unsigned long long number) noexcept {
  text_ = {digits_, static_cast<size_t>(std::to_chars(digits_, digits_ + sizeof digits_, number).ptr - digits_)};
}

void fail_with(rexit_status status, std::initializer_list<MessagePart> parts) {
  std::string line;
  for (const MessagePart& part : parts) line += part.text();
  std::replace(line.begin(), line.end(), '\0', ' ');  // quoted from a caller's text: what() would end there
  throw Error(status, line);
}

rexit_status report_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    set_last_error(error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return REXIT_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    set_last_error("out of memory: a buffer larger than the address space was requested");
    return REXIT_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return REXIT_INTERNAL;
  } catch (...) {
    set_last_error("an exception of unknown type");
    return REXIT_INTERNAL;
  }
}

const char* last_error() noexcept { return last_error_text; }

const char* status_name(rexit_status status) noexcept {
  switch (status) {
#define REXIT_NAME(name) \
  case name:             \
    return #name;
    REXIT_NAME(REXIT_OK)
    REXIT_NAME(REXIT_INVALID_ARGUMENT)
    REXIT_NAME(REXIT_UNKNOWN_ITEM)
    REXIT_NAME(REXIT_UNKNOWN_VARIANT)
    REXIT_NAME(REXIT_NOT_FOUND)
    REXIT_NAME(REXIT_CORRUPT)
    REXIT_NAME(REXIT_UNSUPPORTED)
    REXIT_NAME(REXIT_MISMATCH)
    REXIT_NAME(REXIT_BACKEND_MISSING)
    REXIT_NAME(REXIT_BACKEND_FAILED)
    REXIT_NAME(REXIT_TOO_LONG)
    REXIT_NAME(REXIT_DEADLINE)
    REXIT_NAME(REXIT_OUT_OF_MEMORY)
    REXIT_NAME(REXIT_CANCELLED)
    REXIT_NAME(REXIT_INTERNAL)
#undef REXIT_NAME
  }
  return "unknown status";
}

// Caught here rather than left to noexcept: the cleanup code that GCC 14 generates for that needs a libstdc++ newer than JetPack
// 6's.
void set_log(void (*sink)(void*, rexit_log_level, const char*), void* context, rexit_log_level level) noexcept try {
  Log& log = global_log();
  const std::lock_guard<std::mutex> lock(log.mutex);
  log.sink = {sink, context, level};
} catch (...) {  // out of memory: there is no log
}

// The sink runs without holding the lock: it may call rexit, rexit_set_log included.
void log(rexit_log_level level, const std::string& line) noexcept try {
  Sink sink;
  {
    Log& log = global_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    sink = log.sink;
  }
  if (sink.call == nullptr || level < sink.level) return;
  std::string cleaned(line.size() + 1, '\0');
  copy_clean(line.c_str(), cleaned.data(), cleaned.size());
  sink.call(sink.context, level, cleaned.c_str());
} catch (...) {  // a sink that throws must not end the process
}

}  // namespace rexit::core

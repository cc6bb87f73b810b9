#include "status.hpp"

#include <mutex>
#include <new>

namespace rexit::core {
namespace {

// Fixed storage: reporting that memory ran out must not need any.
thread_local char last_error_text[1024] = "";

void remember(const char* text) noexcept {
  size_t n = 0;
  for (; text[n] != '\0' && n + 1 < sizeof last_error_text; ++n) last_error_text[n] = text[n] == '\n' ? ' ' : text[n];
  last_error_text[n] = '\0';
}

struct Log {
  std::mutex mutex;
  void (*sink)(void*, rexit_log_level, const char*) = nullptr;
  void* context = nullptr;
  rexit_log_level level = REXIT_LOG_ERROR;
};

// Never destroyed: ONNX Runtime's threads may still log while the process exits.
Log& the_log() {
  static Log* log = new Log;
  return *log;
}

}  // namespace

rexit_status report_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    remember(error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    remember("out of memory");
    return REXIT_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    remember("out of memory: a buffer larger than the address space was asked for");
    return REXIT_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    remember(error.what());
    return REXIT_INTERNAL;
  } catch (...) {
    remember("an exception of unknown type");
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
    REXIT_NAME(REXIT_INTERNAL)
#undef REXIT_NAME
  }
  return "unknown status";
}

void set_log(void (*sink)(void*, rexit_log_level, const char*), void* context, rexit_log_level level) noexcept {
  Log& log = the_log();
  const std::lock_guard<std::mutex> lock(log.mutex);
  log.sink = sink;
  log.context = context;
  log.level = level;
}

void log(rexit_log_level level, const std::string& line) noexcept {
  Log& log = the_log();
  const std::lock_guard<std::mutex> lock(log.mutex);
  if (log.sink != nullptr && level >= log.level) log.sink(log.context, level, line.c_str());
}

}  // namespace rexit::core

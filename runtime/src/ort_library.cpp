#include "ort_library.hpp"

#include <dlfcn.h>
#include <sched.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>

#include "status.hpp"

namespace rexit::core {
namespace {

// Never destroyed: pool threads and static destructors of other libraries may still be at work when the process exits.
struct Runtime {
  Ort::Env* env = nullptr;
  std::int32_t threads = 0;
};

std::int32_t cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

void* open_library(const char* path) {
  if (path == nullptr || *path == '\0') path = std::getenv("REXIT_ONNXRUNTIME_LIBRARY");
  const bool named = path != nullptr && *path != '\0';
  std::string reason;
  for (const char* name : {named ? path : "libonnxruntime.so.1", "libonnxruntime.so"}) {
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    reason = ::dlerror();
    if (named) break;
  }
  fail(REXIT_BACKEND_MISSING, "ONNX Runtime cannot be loaded: ", reason,
       named ? "" : "; set REXIT_ONNXRUNTIME_LIBRARY to the path of libonnxruntime.so");
}

void load_api(const char* path) {
  void* library = open_library(path);
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetApiBase>(::dlsym(library, "OrtGetApiBase"));
  if (get_base == nullptr) fail(REXIT_BACKEND_MISSING, "the ONNX Runtime library has no OrtGetApiBase: it is some other library");
  const OrtApiBase* base = get_base();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    fail(REXIT_BACKEND_MISSING, "ONNX Runtime is ", base->GetVersionString(), ", expected at least 1.", ORT_API_VERSION);
  Ort::InitApi(api);
}

void ORT_API_CALL forward_log(void*, OrtLoggingLevel level, const char*, const char*, const char* where, const char* message) {
  const rexit_log_level ours = level >= ORT_LOGGING_LEVEL_ERROR     ? REXIT_LOG_ERROR
                               : level == ORT_LOGGING_LEVEL_WARNING ? REXIT_LOG_WARNING
                                                                    : REXIT_LOG_DEBUG;
  log(ours, std::string("onnxruntime ") + where + ": " + message);
}

Ort::Env* make_environment(std::int32_t threads) {
  Ort::ThreadingOptions options;
  options.SetGlobalIntraOpNumThreads(threads);
  options.SetGlobalInterOpNumThreads(1);
  options.SetGlobalSpinControl(1);
  auto env = std::make_unique<Ort::Env>(options, forward_log, nullptr, ORT_LOGGING_LEVEL_WARNING, "rexit");
  // One arena for what segments need while they run: they run one after another, and each would keep its own.
  Ort::ThrowOnError(Ort::GetApi().RegisterAllocator(*env, &ort_arena()));
  return env.release();
}

}  // namespace

// Never destroyed, as the environment that uses it.
OrtArena& ort_arena() {
  static OrtArena* arena = new OrtArena;
  return *arena;
}

Ort::Env& ort_environment(const char* library, std::int32_t threads) {
  static std::mutex mutex;
  static Runtime runtime;
  const std::lock_guard<std::mutex> lock(mutex);
  if (runtime.env == nullptr) {
    const std::int32_t count = threads == 0 ? cores() : threads;
    load_api(library);
    try {
      runtime.env = make_environment(count);
    } catch (const Ort::Exception& error) {
      fail(REXIT_BACKEND_FAILED, "ONNX Runtime cannot make its thread pool: ", error.what());
    }
    runtime.threads = count;
  }
  if (threads != 0 && threads != runtime.threads)
    fail(REXIT_INVALID_ARGUMENT, "threads is ", threads, ", but this process's pool was made with ", runtime.threads,
         " by the first bundle opened: use that number or 0");
  return *runtime.env;
}

}  // namespace rexit::core

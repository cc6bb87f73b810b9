#include "backends/onnxruntime/ort_library.hpp"

#include <dlfcn.h>
#include <sched.h>

#include <charconv>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/status.hpp"

namespace rexit::core {
namespace {

// Never destroyed: pool threads and static destructors of other libraries may still be running when the process exits.
struct Runtime {
  Ort::Env* env = nullptr;
  std::int32_t threads = 0;
  std::string version;
};

Runtime& the_runtime() {
  static Runtime* runtime = new Runtime;
  return *runtime;
}

// The first 1.x that accepts an opset, found by loading a graph of each into 1.16 to 1.23. Older libraries lack functions that
// rexit calls.
struct Support {
  std::size_t opset;
  int minor;
};
constexpr Support support[] = {{20, 17}, {21, 18}, {22, 21}, {23, 23}};

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

std::string load_api(const char* path) {
  void* library = open_library(path);
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetApiBase>(::dlsym(library, "OrtGetApiBase"));
  if (get_base == nullptr)
    fail(REXIT_BACKEND_MISSING, "the library loaded as ONNX Runtime has no OrtGetApiBase: it is a different library");
  const OrtApiBase* base = get_base();
  const OrtApi* api = base->GetApi(ort_api_version);
  if (api == nullptr)
    fail(REXIT_BACKEND_MISSING, "ONNX Runtime is ", base->GetVersionString(), ", expected at least 1.", ort_api_version);
  Ort::InitApi(api);
  return base->GetVersionString();
}

// The x of "1.x.y"; -1 for any other form.
int minor_of(const std::string& version) {
  int minor = -1;
  if (version.compare(0, 2, "1.") == 0) std::from_chars(version.data() + 2, version.data() + version.size(), minor);
  return minor;
}

// What ONNX Runtime says while this thread starts it is logged afterwards: `log` may open a bundle, which waits for the start.
using Lines = std::vector<std::pair<rexit_log_level, std::string>>;
thread_local Lines* waiting = nullptr;

Ort::Env* make_environment(std::int32_t threads) {
  Ort::ThreadingOptions options;
  options.SetGlobalIntraOpNumThreads(threads);
  options.SetGlobalInterOpNumThreads(1);
  options.SetGlobalSpinControl(1);
  auto env = std::make_unique<Ort::Env>(options, forward_log, nullptr, ORT_LOGGING_LEVEL_WARNING, "rexit");
  // One allocator for all segments: they run one after another, and otherwise each would keep an arena of its own. A host program
  // that created the environment before us may have registered its own, which then serves us as well.
  const Ort::Status registered(Ort::GetApi().RegisterAllocator(*env, &ort_arena()));
  return env.release();
}

// Logs what has waited when it ends, with or without an exception.
struct LogAfterwards {
  LogAfterwards() { waiting = &lines; }
  ~LogAfterwards() {
    waiting = nullptr;
    for (const auto& [level, line] : lines) log(level, line);
  }
  Lines lines;
};

// Starts ONNX Runtime unless it runs.
Runtime& started(const char* library, std::int32_t threads) {
  static std::mutex mutex;
  Runtime& runtime = the_runtime();
  const LogAfterwards later;  // destroyed after the lock
  const std::lock_guard<std::mutex> lock(mutex);
  if (runtime.env == nullptr) {
    const std::int32_t count = threads == 0 ? cores() : threads;
    runtime.version = load_api(library);
    try {
      runtime.env = make_environment(count);
    } catch (const Ort::Exception& error) {
      fail(REXIT_BACKEND_FAILED, "ONNX Runtime cannot create its thread pool: ", error.what());
    }
    runtime.threads = count;
  }
  return runtime;
}

}  // namespace

void ORT_API_CALL forward_log(void*, OrtLoggingLevel level, const char*, const char*, const char* where,
                              const char* message) noexcept try {
  const rexit_log_level ours = level >= ORT_LOGGING_LEVEL_ERROR     ? REXIT_LOG_ERROR
                               : level == ORT_LOGGING_LEVEL_WARNING ? REXIT_LOG_WARNING
                                                                    : REXIT_LOG_DEBUG;
  std::string line = std::string("onnxruntime ") + where + ": " + message;
  if (waiting != nullptr) {
    waiting->emplace_back(ours, std::move(line));
  } else {
    log(ours, line);
  }
} catch (...) {
}

// Never destroyed, like the environment that uses it.
OrtArena& ort_arena() {
  static OrtArena* arena = new OrtArena;
  return *arena;
}

Ort::Env& ort_environment(const char* library, std::int32_t threads) {
  const Runtime& runtime = started(library, threads);
  if (threads != 0 && threads != runtime.threads)
    fail(REXIT_INVALID_ARGUMENT, "threads is ", threads, ", but the first bundle opened in this process created the pool with ",
         runtime.threads, ": use that number or 0");
  return *runtime.env;
}

std::int32_t ort_threads() { return the_runtime().threads; }

const std::string& ort_version() { return the_runtime().version; }

void check_opset(std::size_t opset, const std::string& what) { check_opset(opset, what, the_runtime().version); }

void check_opset(std::size_t opset, const std::string& what, const std::string& version) {
  const int minor = minor_of(version);
  if (minor < 0) return;
  for (const Support& one : support)
    if (opset == one.opset && minor < one.minor)
      fail(REXIT_BACKEND_MISSING, what, " needs ONNX Runtime 1.", one.minor, " or newer for its opset ", opset,
           ", the one loaded is ", version);
}

}  // namespace rexit::core

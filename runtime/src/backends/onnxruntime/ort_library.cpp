#include "backends/onnxruntime/ort_library.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

// Never destroyed: pool threads and static destructors of other libraries may still run when the process exits.
struct Runtime {
  Ort::Env* env = nullptr;
  const OrtApi* api = nullptr;
  bool has_pool = true;  // false: the first open had own_threads
  std::int32_t threads = 0;
  bool spins = true;
  bool loads_from_memory = false;
  std::string version;
};

Runtime& global_runtime() {
  static Runtime* runtime = new Runtime;
  return *runtime;
}

// The first version of the C API with AddExternalInitializersFromFilesInMemory.
constexpr std::uint32_t memory_api_version = 18;

// The first 1.x that accepts an opset, measured by loading graphs into 1.16 to 1.23. Older libraries lack functions that rexit
// calls.
struct Support {
  std::size_t opset;
  int minor;
};
constexpr Support support[] = {{20, 17}, {21, 18}, {22, 21}, {23, 23}};

void* open_library(const char* path) {
  if (path == nullptr || *path == '\0') path = std::getenv("REXIT_ONNXRUNTIME_LIBRARY");
  const bool has_path = path != nullptr && *path != '\0';
  std::string reason;
  for (const char* name : {has_path ? path : platform::onnxruntime_names[0], platform::onnxruntime_names[1]}) {
    if (void* library = platform::load_library(name)) return library;
    reason = platform::error_text();
    if (has_path) break;
  }
  fail(REXIT_BACKEND_MISSING, "ONNX Runtime cannot be loaded: ", reason,
       has_path ? "" : "; set REXIT_ONNXRUNTIME_LIBRARY to the path of ONNX Runtime's library");
}

const OrtApiBase& load_base(const char* path) {
  void* library = open_library(path);
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetApiBase>(platform::symbol(library, "OrtGetApiBase"));
  if (get_base == nullptr)
    fail(REXIT_BACKEND_MISSING, "the library loaded as ONNX Runtime has no OrtGetApiBase: it is a different library");
  return *get_base();
}

const OrtApi* api_of(const OrtApiBase& base) {
  const OrtApi* api = base.GetApi(ort_api_version);
  if (api == nullptr)
    fail(REXIT_BACKEND_MISSING, "ONNX Runtime is ", base.GetVersionString(), ", expected at least 1.", ort_api_version);
  return api;
}

// The x of "1.x.y"; -1 for any other form.
int minor_of(const std::string& version) {
  int minor = -1;
  if (version.compare(0, 2, "1.") == 0) std::from_chars(version.data() + 2, version.data() + version.size(), minor);
  return minor;
}

// ONNX Runtime's lines during its start, to be logged afterwards: `log` may open a bundle, which waits for the start.
using Lines = std::vector<std::pair<rexit_log_level, std::string>>;
thread_local Lines* deferred_lines = nullptr;

// The process's environment, if there is one: then the options have no effect. With `own_threads` a new one has no pool, whose
// threads would be idle.
Ort::Env* make_environment(const Runtime& runtime, const Execution& execution) {
  Ort::ThreadingOptions options;
  options.SetGlobalIntraOpNumThreads(runtime.threads);
  options.SetGlobalInterOpNumThreads(1);
  options.SetGlobalSpinControl(runtime.spins ? 1 : 0);
  auto env = execution.own_threads
                 ? std::make_unique<Ort::Env>(ORT_LOGGING_LEVEL_WARNING, "rexit", forward_log, nullptr)
                 : std::make_unique<Ort::Env>(options, forward_log, nullptr, ORT_LOGGING_LEVEL_WARNING, "rexit");
  if (execution.environment != nullptr) {
    if (static_cast<OrtEnv*>(*env) != execution.environment)
      fail(REXIT_INVALID_ARGUMENT, "options.environment is not the environment of options.onnxruntime");
    return env.release();
  }
  // All segments share an allocator: they run one after another, and would otherwise keep an arena per segment.
  const Ort::Status registered(Ort::GetApi().RegisterAllocator(*env, &ort_arena()));
  return env.release();
}

// Defers this thread's lines to the end of the scope, also if an exception leaves it.
struct DeferredLog {
  DeferredLog() { deferred_lines = &lines; }
  ~DeferredLog() {
    deferred_lines = nullptr;
    for (const auto& [level, line] : lines) log(level, line);
  }
  Lines lines;
};

// Starts ONNX Runtime on the first call.
Runtime& start_runtime(const Execution& execution) {
  static std::mutex mutex;
  Runtime& runtime = global_runtime();
  const DeferredLog deferred_log;  // destroyed after the lock
  const std::lock_guard<std::mutex> lock(mutex);
  if (runtime.env == nullptr) {
    const auto* host = static_cast<const OrtApiBase*>(execution.onnxruntime);
    const OrtApiBase& base = host != nullptr ? *host : load_base(execution.onnxruntime_library);
    Runtime started;
    started.api = api_of(base);
    started.version = base.GetVersionString();
    started.loads_from_memory = ORT_API_VERSION >= memory_api_version && base.GetApi(memory_api_version) != nullptr;
    started.has_pool = !execution.own_threads;
    started.threads = execution.threads == 0 || execution.own_threads ? platform::cores() : execution.threads;
    started.spins = execution.own_threads || execution.spinning != REXIT_SPINNING_OFF;
    Ort::InitApi(started.api);
    try {
      started.env = make_environment(started, execution);
    } catch (const Ort::Exception& error) {
      fail(REXIT_BACKEND_FAILED, "ONNX Runtime cannot create its thread pool: ", error.what());
    }
    runtime = started;
  }
  return runtime;
}

void check_is_the_same_library(const Execution& execution, const Runtime& runtime) {
  const auto* host = static_cast<const OrtApiBase*>(execution.onnxruntime);
  if (host != nullptr && host->GetApi(ort_api_version) != runtime.api)
    fail(REXIT_INVALID_ARGUMENT, "options.onnxruntime is another library than the ONNX Runtime ", runtime.version,
         " that the first bundle opened in this process loaded: open every bundle with the program's own");
  if (execution.environment != nullptr && execution.environment != static_cast<OrtEnv*>(*runtime.env))
    fail(REXIT_INVALID_ARGUMENT, "options.environment is not that of the first bundle opened in this process");
}

void check_is_the_same_pool(const Execution& execution, const Runtime& runtime) {
  if (execution.own_threads || !runtime.has_pool) return;
  if (execution.threads != 0 && execution.threads != runtime.threads)
    fail(REXIT_INVALID_ARGUMENT, "threads is ", execution.threads,
         ", but the first bundle opened in this process created the pool with ", runtime.threads, ": use that number or 0");
  if (execution.spinning != REXIT_SPINNING_DEFAULT && (execution.spinning == REXIT_SPINNING_ON) != runtime.spins)
    fail(REXIT_INVALID_ARGUMENT, "spinning is ", runtime.spins ? "off" : "on",
         ", but the first bundle opened in this process created the pool with spinning ", runtime.spins ? "on" : "off",
         ": use that or REXIT_SPINNING_DEFAULT");
}

}  // namespace

void ORT_API_CALL forward_log(void*, OrtLoggingLevel level, const char*, const char*, const char* where,
                              const char* message) noexcept try {
  const rexit_log_level ours = level >= ORT_LOGGING_LEVEL_ERROR     ? REXIT_LOG_ERROR
                               : level == ORT_LOGGING_LEVEL_WARNING ? REXIT_LOG_WARNING
                                                                    : REXIT_LOG_DEBUG;
  std::string line = std::string("onnxruntime ") + where + ": " + message;
  if (deferred_lines != nullptr) {
    deferred_lines->emplace_back(ours, std::move(line));
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

Ort::Env& ort_environment(const Execution& execution) {
  const Runtime& runtime = start_runtime(execution);
  check_is_the_same_library(execution, runtime);
  check_is_the_same_pool(execution, runtime);
  return *runtime.env;
}

std::int32_t ort_threads(const Execution& execution) {
  const Runtime& runtime = global_runtime();
  const bool has_own_pools = execution.own_threads || !runtime.has_pool;
  return has_own_pools && execution.threads != 0 ? execution.threads : runtime.threads;
}

void require_loading_from_memory() {
  if (!global_runtime().loads_from_memory)
    fail(REXIT_BACKEND_MISSING, "opening a bundle that is not in a folder needs ONNX Runtime 1.", memory_api_version,
         " or newer, and a rexit built with its headers; the loaded library is ", ort_version());
}

const std::string& ort_version() { return global_runtime().version; }

void check_opset(std::size_t opset, const std::string& owner, const std::string& version) {
  const int minor = minor_of(version);
  if (minor < 0) return;
  for (const Support& entry : support)
    if (opset == entry.opset && minor < entry.minor)
      fail(REXIT_BACKEND_MISSING, owner, " needs ONNX Runtime 1.", entry.minor, " or newer for its opset ", opset,
           ", the loaded library is ", version);
}

}  // namespace rexit::core

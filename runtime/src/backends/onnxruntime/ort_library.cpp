#include "backends/onnxruntime/ort_library.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>
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
  std::int32_t threads = 0;
  std::string version;
};

Runtime& global_runtime() {
  static Runtime* runtime = new Runtime;
  return *runtime;
}

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
    if (void* library = platform::load_library(name, reason)) return library;
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

// The process's environment, if there is one: then the options have no effect.
Ort::Env* make_environment(std::int32_t threads) {
  Ort::ThreadingOptions options;
  options.SetGlobalIntraOpNumThreads(threads);
  options.SetGlobalInterOpNumThreads(1);
  options.SetGlobalSpinControl(1);
  auto env = std::make_unique<Ort::Env>(options, forward_log, nullptr, ORT_LOGGING_LEVEL_WARNING, "rexit");
  // Grows by what a run asks for: doubling would take as much again for nothing.
  constexpr int same_as_requested = 1;
  const Ort::ArenaCfg arena(0, same_as_requested, -1, -1);
  const Ort::MemoryInfo cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  // The status is an error if the program has registered an allocator in its environment: then it is used.
  const Ort::Status registered(Ort::GetApi().CreateAndRegisterAllocator(*env, cpu, arena));
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
    const OrtApiBase& base = load_base(execution.onnxruntime_library);
    Runtime started;
    started.version = base.GetVersionString();
    started.threads = execution.threads == 0 ? platform::cores() : execution.threads;
    Ort::InitApi(api_of(base));
    try {
      started.env = make_environment(started.threads);
    } catch (const Ort::Exception& error) {
      fail(REXIT_BACKEND_FAILED, "ONNX Runtime cannot create its thread pool: ", error.what());
    }
    runtime = started;
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
  if (deferred_lines != nullptr) {
    deferred_lines->emplace_back(ours, std::move(line));
  } else {
    log(ours, line);
  }
} catch (...) {
}

Ort::Env& ort_environment(const Execution& execution) {
  const Runtime& runtime = start_runtime(execution);
  if (execution.threads != 0 && execution.threads != runtime.threads)
    fail(REXIT_INVALID_ARGUMENT, "threads is ", execution.threads,
         ", but the first bundle opened in this process created the pool with ", runtime.threads, ": use that number or 0");
  return *runtime.env;
}

std::int32_t ort_threads() { return global_runtime().threads; }

const std::string& ort_version() { return global_runtime().version; }

void check_opset(std::size_t opset, const std::string& owner, const std::string& version) {
  const int minor = minor_of(version);
  if (minor < 0) return;
  for (const Support& entry : support)
    if (opset == entry.opset && minor < entry.minor)
      fail(REXIT_BACKEND_MISSING, owner, " needs ONNX Runtime 1.", entry.minor, " or newer for its opset ", opset,
           ", the loaded library is ", version);
}

Ort::SessionOptions graph_options() {
  Ort::SessionOptions options;
  // ONNX Runtime would keep a memory pattern per input shape, and prompts have too many lengths for that.
  options.DisableMemPattern();
  options.AddConfigEntry("session.use_env_allocators", "1");  // the arena of make_environment
  // The arena would keep the weights' memory after their rearrangement.
  options.AddConfigEntry("session.use_device_allocator_for_initializers", "1");
  return options;
}

// If the program has created the environment, it may have no pool for sessions to share, and every segment gets its own pool.
// That pool does not spin, which would take cores from the running segment.
Ort::Session load_graph(const std::string& path, const Ort::SessionOptions& common, Pool pool) {
  const Runtime& runtime = global_runtime();
  if (pool == Pool::shared) {
    Ort::SessionOptions options = common.Clone();
    options.DisablePerSessionThreads();
    try {
      return Ort::Session(*runtime.env, path.c_str(), options);
    } catch (const Ort::Exception& error) {
      if (std::strstr(error.what(), "CreateEnvWithGlobalThreadPools") == nullptr) throw;
    }
  }
  Ort::SessionOptions options = common.Clone();
  options.SetIntraOpNumThreads(pool == Pool::shared ? runtime.threads : 1).AddConfigEntry("session.intra_op.allow_spinning", "0");
  return Ort::Session(*runtime.env, path.c_str(), options);
}

}  // namespace rexit::core

// ONNX Runtime, opened with dlopen; the process's environment; and graphs loaded into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backends/backend.hpp"
#include "backends/onnxruntime/ort_api.hpp"

namespace rexit::core {

// The first call opens the library and creates the environment; later calls return the same environment. All segments share its
// thread pool: a pool per segment would spin against the others and take 1.8 times as long on two cores. They share its arena,
// too: they run one after another, and would otherwise keep an arena per segment. If the program has created an environment
// before, this returns that environment, which may have no such pool.
//
// Later calls ignore `library`. Throws REXIT_INVALID_ARGUMENT if `execution` asks for another number of threads than the existing
// pool has, REXIT_BACKEND_MISSING if there is no library or it is older than ort_api_version.
Ort::Env& ort_environment(const Execution& execution);

// Size of the pool, and the library's version. Only after ort_environment().
std::int32_t ort_threads();
const std::string& ort_version();

// Throws REXIT_BACKEND_MISSING if library version `version`, "1.21.0", is too old for graphs of this opset. Call it before
// loading a graph: ONNX Runtime's own error is about its source files. `owner`: what the graphs belong to, for the message.
void check_opset(std::size_t opset, const std::string& owner, const std::string& version);

enum class Pool { shared, none };  // none: everything runs in the thread that calls Run

// The graph at a path, with weights beside it. Only after ort_environment(). Throws Ort::Exception.
Ort::Session load_graph(const std::string& path, const Ort::SessionOptions& options, Pool pool);

// Options of every graph.
Ort::SessionOptions graph_options();

// An OrtLoggingFunction that forwards ONNX Runtime's lines to our log. Exceptions must not cross its C code: out of memory, the
// line is lost.
void ORT_API_CALL forward_log(void*, OrtLoggingLevel level, const char*, const char*, const char* where,
                              const char* message) noexcept;

}  // namespace rexit::core

// ONNX Runtime, opened with dlopen, and the process's environment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backends/backend.hpp"
#include "backends/onnxruntime/ort_arena.hpp"

namespace rexit::core {

// The first call opens the library, or takes the host program's, and creates the environment; later calls return the same
// environment. All segments share its thread pool: a pool per segment would spin against the others and take 1.8 times as long on
// two cores. If the host program has created an environment before, this returns that environment, which may have no such pool.
//
// Later calls ignore `library`. Throws REXIT_INVALID_ARGUMENT if `execution` asks for another pool or library than
// the existing one, REXIT_BACKEND_MISSING if there is no library or it is older than ort_api_version.
Ort::Env& ort_environment(const Execution& execution);

// Throws REXIT_BACKEND_MISSING if the library cannot load weights from memory. Only after ort_environment().
void require_loading_from_memory();

// Size of the pools that run a bundle, and the library's version. Only after ort_environment().
std::int32_t ort_threads(const Execution& execution);
const std::string& ort_version();

// Throws REXIT_BACKEND_MISSING if library version `version`, "1.21.0", is too old for graphs of this opset. Call it before
// loading a graph: ONNX Runtime's own error is about its source files. `owner`: what the graphs belong to, for the message.
void check_opset(std::size_t opset, const std::string& owner, const std::string& version);
// An OrtLoggingFunction that forwards ONNX Runtime's lines to our log. Exceptions must not cross its C code: out of memory, the
// line is lost.
void ORT_API_CALL forward_log(void*, OrtLoggingLevel level, const char*, const char*, const char* where,
                              const char* message) noexcept;

// The CPU allocator of all segments. Only after ort_environment().
OrtArena& ort_arena();

}  // namespace rexit::core

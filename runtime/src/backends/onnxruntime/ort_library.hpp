// ONNX Runtime, opened with dlopen, and its one environment per process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backends/onnxruntime/ort_arena.hpp"

namespace rexit::core {

// Opens the library and creates the environment on the first call; later calls return the same one. The thread pool is shared:
// pools of one per segment spin against each other, which takes 1.8 times as long on two cores. Only if the program has an
// environment already is this that one, without a pool.
//
// `library`: a path; null: $REXIT_ONNXRUNTIME_LIBRARY, else the system's. Later calls ignore it. `threads`: the pool's size; 0:
// one per core, or the size of the existing pool. Throws REXIT_INVALID_ARGUMENT if it differs from the existing pool's,
// REXIT_BACKEND_MISSING if there is no library or it is older than ort_api_version.
Ort::Env& ort_environment(const char* library, std::int32_t threads);

// The pool's size and the library's version, once there is an environment.
std::int32_t ort_threads();
const std::string& ort_version();

// Throws REXIT_BACKEND_MISSING if the library that ort_environment opened is too old for graphs of this opset. To be called
// before loading them: the error that ONNX Runtime then reports is about its own source files. `what` names their owner in the
// message.
void check_opset(std::size_t opset, const std::string& what);

// The same for a given version of the library, "1.21.0".
void check_opset(std::size_t opset, const std::string& what, const std::string& version);

// Sends what ONNX Runtime logs to our log: an OrtLoggingFunction. C code calls it, which an exception must not cross: out of
// memory, the line is lost.
void ORT_API_CALL forward_log(void*, OrtLoggingLevel level, const char*, const char*, const char* where,
                              const char* message) noexcept;

// What segments allocate from on the CPU, once there is an environment.
OrtArena& ort_arena();

}  // namespace rexit::core

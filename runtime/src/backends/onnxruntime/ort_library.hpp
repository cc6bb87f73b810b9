// ONNX Runtime, opened with dlopen, and its one environment per process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backends/onnxruntime/ort_arena.hpp"

namespace rexit::core {

// Opens the library and makes the environment on the first call; later calls return the same one. The thread pool is global:
// with one pool per segment they spin against each other, which costs 1.8 times the time on two cores.
//
// `library`: a path; null: $REXIT_ONNXRUNTIME_LIBRARY, then the system's. Only the first call's counts.
// `threads`: of the pool; 0: one per core, or whatever the pool has. Throws REXIT_INVALID_ARGUMENT when it differs from the
// pool's, REXIT_BACKEND_MISSING when there is no library or it is older than the headers rexit was built with.
Ort::Env& ort_environment(const char* library, std::int32_t threads);

// Throws REXIT_BACKEND_MISSING when the library that ort_environment opened is too old for graphs of this opset. Asked before
// they are loaded: what ONNX Runtime says then is about its own source files. `what` has them, for the message.
void check_opset(std::size_t opset, const std::string& what);

// The same for the library's version as it gives it, "1.21.0".
void check_opset(std::size_t opset, const std::string& what, const std::string& version);

// What segments work in on the CPU, once there is an environment.
OrtArena& ort_arena();

}  // namespace rexit::core

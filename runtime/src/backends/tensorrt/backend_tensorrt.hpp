// Backend over TensorRT itself, for builds with -DREXIT_TENSORRT=ON. Hidden states, keys and values stay in the GPU's memory.
#pragma once

#include <cstdint>

#include "backends/backend.hpp"

namespace rexit::core {

// Loads the variant's engines for GPU `device_id`; `bundle` must outlive the backends. Each session's has a stream, execution
// contexts and memory of its own; the first one's are taken here, the others' when they are asked for, and running takes none but
// for `cuda_graphs`: slates filled up to few sizes, of which those met again are captured and launched as one.
// Throws REXIT_BACKEND_MISSING without a GPU, REXIT_INVALID_ARGUMENT for a GPU that there is not, what find_engines throws,
// REXIT_BACKEND_FAILED for a plan that TensorRT does not load, REXIT_CORRUPT for one that is not what variant.json and
// engine.json say, REXIT_OUT_OF_MEMORY.
Backends make_tensorrt_backends(const Bundle& bundle, std::int32_t device_id, bool cuda_graphs);

}  // namespace rexit::core

// The backend over TensorRT itself, for builds with -DREXIT_TENSORRT=ON. Hidden states, keys and values stay in GPU memory.
#pragma once

#include <cstdint>

#include "backends/backend.hpp"

namespace rexit::core {

// Loads the variant's engines for GPU `device_id`. The backends keep no reference to `bundle`. A session's backend has its own
// stream, execution contexts and memory, allocated here for the first session and at creation for the others. Throws
// REXIT_BACKEND_MISSING without a GPU, REXIT_INVALID_ARGUMENT if there is no GPU of this number, what find_engines throws,
// REXIT_BACKEND_FAILED for a plan that TensorRT cannot load, REXIT_CORRUPT for a plan that contradicts variant.json or
// engine.json, REXIT_OUT_OF_MEMORY.
BackendFactory make_tensorrt_factory(const Bundle& bundle, std::int32_t device_id);

}  // namespace rexit::core

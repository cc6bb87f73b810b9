// The backend over TensorRT itself, for builds with -DREXIT_TENSORRT=ON. Hidden states, keys and values stay in GPU memory.
#pragma once

#include <cstdint>

#include "backends/backend.hpp"

namespace rexit::core {

// Loads the variant's engines for GPU `device_id`; the backends do not need `bundle` any longer. Each session's backend has a
// stream, execution contexts and memory of its own. The first one's are allocated here, the others' when a session is created,
// and none while running except with `cuda_graphs`, which pads slates to a few sizes, and captures and launches those seen again
// as one CUDA graph. Throws REXIT_BACKEND_MISSING without a GPU, REXIT_INVALID_ARGUMENT if there is no GPU of this number, what
// find_engines throws, REXIT_BACKEND_FAILED for a plan that TensorRT cannot load, REXIT_CORRUPT for one that differs from what
// variant.json and engine.json say, REXIT_OUT_OF_MEMORY.
BackendFactory make_tensorrt_factory(const Bundle& bundle, std::int32_t device_id, bool cuda_graphs);

}  // namespace rexit::core

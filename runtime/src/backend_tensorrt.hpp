// Backend over TensorRT itself, for builds with -DREXIT_TENSORRT=ON. Hidden states, keys and values stay in the GPU's memory.
#pragma once

#include <cstdint>
#include <memory>

#include "backend.hpp"

namespace rexit::core {

// Loads the variant's engines for GPU `device_id`; `bundle` must outlive the backend. Throws REXIT_BACKEND_MISSING without a GPU,
// REXIT_INVALID_ARGUMENT for a GPU that there is not, what find_engines throws, REXIT_BACKEND_FAILED for a plan that TensorRT
// does not load or that does not take and give what variant.json says.
std::unique_ptr<Backend> make_tensorrt_backend(const Bundle& bundle, std::int32_t device_id);

}  // namespace rexit::core

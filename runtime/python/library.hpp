// The core's rules for Python: what training and calibration read of them, without a bundle.
#pragma once

#include <nanobind/nanobind.h>

#include "rexit/rexit.h"

namespace rexit::python {

// Sets the exception of rexit.errors for a status.
void set_error(rexit_status status, const char* message);

void bind_library(nanobind::module_& module);

}  // namespace rexit::python

// The core's rules for Python: what training and calibration read of them, without a bundle.
#pragma once

#include <nanobind/nanobind.h>

namespace rexit::python {

void bind_library(nanobind::module_& module);

}  // namespace rexit::python

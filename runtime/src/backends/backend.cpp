// Chooses the backend that runs a bundle.
#include "backends/backend.hpp"

#include <string>

#include "backends/onnxruntime/backend_ort.hpp"
#include "base/platform.hpp"
#include "base/status.hpp"
#ifdef REXIT_TENSORRT
#include "backends/tensorrt/backend_tensorrt.hpp"
#endif

namespace rexit::core {
namespace {

std::string device_of(const Bundle& bundle, const Execution& execution) {
  if (execution.provider != nullptr) return "cpu";
  return execution.device != nullptr ? execution.device : bundle.variant().target;
}

bool is_known(const std::string& device) { return device == "cpu" || device == "cuda" || device == "tensorrt"; }

void check_onnxruntime_options(const Execution& execution) {
  if (execution.provider != nullptr && execution.device != nullptr && execution.device != std::string("cpu"))
    fail(REXIT_INVALID_ARGUMENT, "options.provider is `", execution.provider, "` and options.device `", execution.device,
         "`: a provider takes the device's place, expected no device or cpu");
  if (execution.provider == nullptr && execution.provider_option_count != 0)
    fail(REXIT_INVALID_ARGUMENT, "options.provider_option_count is ", execution.provider_option_count,
         " without options.provider");
  for (std::size_t i = 0; i < execution.provider_option_count; ++i)
    if (execution.provider_keys == nullptr || execution.provider_values == nullptr || execution.provider_keys[i] == nullptr ||
        execution.provider_values[i] == nullptr)
      fail(REXIT_INVALID_ARGUMENT, "options.provider_keys or options.provider_values: number ", i, " of ",
           execution.provider_option_count, " is NULL");
}

BackendFactory make_tensorrt(const Bundle& bundle, [[maybe_unused]] std::int32_t device_id) {
#ifdef REXIT_TENSORRT
  return make_tensorrt_factory(bundle, device_id);
#else
  fail(REXIT_BACKEND_MISSING, "device `tensorrt`, which variant `", bundle.variant().name,
       "` is for, needs a rexit built with -DREXIT_TENSORRT=ON; device `cpu` runs its graphs");
#endif
}

}  // namespace

BackendFactory make_backend_factory(const Bundle& bundle, const Execution& execution) {
  const Variant& variant = bundle.variant();
  if (variant.backend != "onnxruntime" && variant.backend != "tensorrt")
    fail(REXIT_UNSUPPORTED, "variant `", variant.name, "` needs backend `", variant.backend,
         "`, this version knows onnxruntime and tensorrt");
  if (!is_known(variant.target))
    fail(REXIT_UNSUPPORTED, "variant `", variant.name, "` targets `", variant.target,
         "`, this version knows cpu, cuda and tensorrt");
  check_onnxruntime_options(execution);
  const std::string device = device_of(bundle, execution);
  if (!is_known(device)) fail(REXIT_INVALID_ARGUMENT, "device is `", device, "`, expected cpu, cuda or tensorrt");
  if (device == "tensorrt") {
    if (variant.target != "tensorrt")
      fail(REXIT_INVALID_ARGUMENT, "device `tensorrt` runs only variants exported for tensorrt; variant `", variant.name,
           "` targets ", variant.target);
    return make_tensorrt(bundle, execution.device_id);
  }
  // All sessions share the backend: several threads may call it at once.
  const std::shared_ptr<const Backend> backend =
      make_ort_backend(bundle, execution, device == "cuda" ? Provider::cuda : Provider::cpu);
  return [backend] { return backend; };
}

std::shared_ptr<const ZeroGraph> load_zero_graph(const Bundle& bundle, const Execution& execution) {
  return make_ort_zero_graph(bundle, execution);
}

Conditions conditions_of(const Bundle& bundle, const Execution& execution) {
  Conditions here;
  here.device = execution.provider != nullptr ? execution.provider : device_of(bundle, execution);
  here.architecture = platform::architecture();
#ifdef REXIT_TENSORRT
  if (here.device == "tensorrt") return here;  // runs on TensorRT itself
#endif
  add_ort_conditions(here);
  return here;
}

}  // namespace rexit::core

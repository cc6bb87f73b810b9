// The kernels for the ONNX Runtime of Python, whose functions are not those that the library opens: so an export judges a variant
// by what a device computes. A library of its own, as a process has one table of functions for each.
#include <exception>

#include "backends/onnxruntime/ort_kernels.hpp"

namespace {

namespace Ort = rexit::core::Ort;

OrtStatusPtr add_kernels(OrtSessionOptions* options) noexcept {
  Ort::SessionOptions session(options);
  OrtStatusPtr status = nullptr;
  try {
    rexit::core::add_kernels(session);
  } catch (const std::exception& error) {
    status = Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
  }
  session.release();  // it is ONNX Runtime's
  return status;
}

}  // namespace

// What `SessionOptions.register_custom_ops_library` calls.
extern "C" __attribute__((visibility("default"))) OrtStatusPtr ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                              const OrtApiBase* base) noexcept {
  const OrtApi* api = base->GetApi(rexit::core::ort_api_version);
  if (api == nullptr) return base->GetApi(1)->CreateStatus(ORT_FAIL, "ONNX Runtime is too old for rexit's kernels");
  Ort::InitApi(api);
  return add_kernels(options);
}

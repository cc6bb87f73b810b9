// Test double: the library that REXIT_ONNXRUNTIME_LIBRARY names, as far as version 1.17 had it.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdlib>

namespace {

const OrtApiBase* real() {
  void* library = ::dlopen(std::getenv("REXIT_ONNXRUNTIME_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(library, "OrtGetApiBase"))();
}

const OrtApi* ORT_API_CALL get_api(std::uint32_t version) noexcept { return version <= 17 ? real()->GetApi(version) : nullptr; }
const char* ORT_API_CALL get_version() noexcept { return real()->GetVersionString(); }

}  // namespace

extern "C" __attribute__((visibility("default"))) const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
  static const OrtApiBase base{get_api, get_version};
  return &base;
}

// Test double: the library that REXIT_ONNXRUNTIME_LIBRARY names, as far as version 1.17 had it, with an execution provider NPU,
// which runs nothing and records its options.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdlib>
#include <string>

namespace {

const OrtApiBase* real() {
  void* library = ::dlopen(std::getenv("REXIT_ONNXRUNTIME_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(library, "OrtGetApiBase"))();
}

std::string appended;
OrtStatusPtr ORT_API_CALL append_provider(OrtSessionOptions* options, const char* name, const char* const* keys,
                                          const char* const* values, std::size_t count) noexcept {
  if (name != std::string("NPU"))
    return real()->GetApi(17)->SessionOptionsAppendExecutionProvider(options, name, keys, values, count);
  appended = name;
  for (std::size_t i = 0; i < count; ++i) appended += std::string(" ") + keys[i] + "=" + values[i];
  return nullptr;
}

const OrtApi* ORT_API_CALL get_api(std::uint32_t version) noexcept {
  const OrtApi* api = version <= 17 ? real()->GetApi(version) : nullptr;
  if (api == nullptr) return nullptr;
  static OrtApi ours = *api;
  ours.SessionOptionsAppendExecutionProvider = append_provider;
  return &ours;
}
const char* ORT_API_CALL get_version() noexcept { return real()->GetVersionString(); }

}  // namespace

extern "C" __attribute__((visibility("default"))) const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
  static const OrtApiBase base{get_api, get_version};
  return &base;
}

extern "C" __attribute__((visibility("default"))) const char* appended_provider() noexcept { return appended.c_str(); }

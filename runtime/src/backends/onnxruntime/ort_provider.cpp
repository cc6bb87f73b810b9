#include "backends/onnxruntime/ort_provider.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/status.hpp"

namespace rexit::core {
namespace {

struct ProviderName {
  const char *ort, *device;
};

constexpr ProviderName name_of(Provider provider) {
  switch (provider) {
    case Provider::cuda:
      return {"CUDAExecutionProvider", "cuda"};
    case Provider::tensorrt:
      return {"TensorrtExecutionProvider", "tensorrt"};
    case Provider::cpu:
      break;
  }
  return {"CPUExecutionProvider", "cpu"};
}

// The C API, since the C++ wrapper's vector of strings needs a newer libstdc++ than JetPack 6's.
std::vector<std::string> available_providers() {
  const OrtApi& api = Ort::GetApi();
  char** names = nullptr;
  int count = 0;
  Ort::ThrowOnError(api.GetAvailableProviders(&names, &count));
  std::vector<std::string> providers(names, names + count);
  Ort::ThrowOnError(api.ReleaseAvailableProviders(names, count));
  return providers;
}

std::string list_of(const std::vector<std::string>& providers) {
  std::string list;
  for (const std::string& provider : providers) list += (list.empty() ? "" : ", ") + provider;
  return list;
}

}  // namespace

void check_provider(Provider provider) {
  const ProviderName name = name_of(provider);
  const std::vector<std::string> available = available_providers();
  if (std::find(available.begin(), available.end(), name.ort) != available.end()) return;
  fail(REXIT_BACKEND_MISSING, "device `", name.device, "` needs ", name.ort, ", but this ONNX Runtime has only ",
       list_of(available), "; use the library from the package onnxruntime-gpu",
       provider == Provider::tensorrt ? ", or a rexit built with -DREXIT_TENSORRT=ON, which does not need it" : "");
}

void append_provider(Ort::SessionOptions& options, Provider provider, std::int32_t device_id) {
  const OrtApi& api = Ort::GetApi();
  const std::string id = std::to_string(device_id);
  if (provider == Provider::cuda) {
    OrtCUDAProviderOptionsV2* cuda = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> owner(
        cuda, api.ReleaseCUDAProviderOptions);
    // Memory grows by the request: doubling would take too much of a GPU that shares its memory with the host.
    const std::array<const char*, 2> keys{"device_id", "arena_extend_strategy"}, values{id.c_str(), "kSameAsRequested"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } else if (provider == Provider::tensorrt) {
    OrtTensorRTProviderOptionsV2* tensorrt = nullptr;
    Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&tensorrt));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)> owner(
        tensorrt, api.ReleaseTensorRTProviderOptions);
    // The contexts of one Ort::Session take turns, so they share working memory; the option does not reach beyond a session.
    const std::array<const char*, 2> keys{"device_id", "trt_context_memory_sharing_enable"}, values{id.c_str(), "1"};
    Ort::ThrowOnError(api.UpdateTensorRTProviderOptions(tensorrt, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_TensorRT_V2(*tensorrt);
  }
}

void append_named_provider(Ort::SessionOptions& options, const Execution& execution) {
  try {
    Ort::ThrowOnError(Ort::GetApi().SessionOptionsAppendExecutionProvider(options, execution.provider, execution.provider_keys,
                                                                          execution.provider_values, execution.provider_options));
  } catch (const Ort::Exception& error) {
    fail(REXIT_BACKEND_MISSING, "provider `", execution.provider, "`: ", error.what(), "; this ONNX Runtime has ",
         list_of(available_providers()));
  }
}

}  // namespace rexit::core

#include "backends/onnxruntime/ort_provider.hpp"

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

// By the C API: the C++ wrapper's vector of strings needs a newer libstdc++ than JetPack 6 has.
std::vector<std::string> available() {
  const OrtApi& api = Ort::GetApi();
  char** names = nullptr;
  int count = 0;
  Ort::ThrowOnError(api.GetAvailableProviders(&names, &count));
  std::vector<std::string> all(names, names + count);
  Ort::ThrowOnError(api.ReleaseAvailableProviders(names, count));
  return all;
}

}  // namespace

void check_provider(Provider provider) {
  const ProviderName name = name_of(provider);
  std::string all;
  for (const std::string& one : available()) {
    if (one == name.ort) return;
    all += (all.empty() ? "" : ", ") + one;
  }
  fail(REXIT_BACKEND_MISSING, "device `", name.device, "` needs ", name.ort, " and this ONNX Runtime has ", all,
       ": the library of the package onnxruntime-gpu has it",
       provider == Provider::tensorrt ? ", and rexit built with -DREXIT_TENSORRT=ON does without" : "");
}

void append_provider(Ort::SessionOptions& options, Provider provider, std::int32_t device_id) {
  const OrtApi& api = Ort::GetApi();
  const std::string id = std::to_string(device_id);
  if (provider == Provider::cuda) {
    OrtCUDAProviderOptionsV2* cuda = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> owner(
        cuda, api.ReleaseCUDAProviderOptions);
    // Memory for prompts grows by what one asks for: doubling would take a GPU that the host shares.
    const std::array<const char*, 2> keys{"device_id", "arena_extend_strategy"}, values{id.c_str(), "kSameAsRequested"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } else if (provider == Provider::tensorrt) {
    OrtTensorRTProviderOptionsV2* tensorrt = nullptr;
    Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&tensorrt));
    const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)> owner(
        tensorrt, api.ReleaseTensorRTProviderOptions);
    // Contexts of one session take turns, so they share their working memory; a session is all that it reaches.
    const std::array<const char*, 2> keys{"device_id", "trt_context_memory_sharing_enable"}, values{id.c_str(), "1"};
    Ort::ThrowOnError(api.UpdateTensorRTProviderOptions(tensorrt, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_TensorRT_V2(*tensorrt);
  }
}

}  // namespace rexit::core

#include "backends/onnxruntime/ort_provider.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/status.hpp"

namespace rexit::core {
namespace {

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
  if (provider == Provider::cpu) return;  // every library has it
  const std::vector<std::string> available = available_providers();
  if (std::find(available.begin(), available.end(), "CUDAExecutionProvider") != available.end()) return;
  fail(REXIT_BACKEND_MISSING, "device `cuda` needs CUDAExecutionProvider, but this ONNX Runtime has only ", list_of(available),
       "; use the library from the package onnxruntime-gpu");
}

void append_provider(Ort::SessionOptions& options, Provider provider, std::int32_t device_id) {
  if (provider == Provider::cpu) return;
  const OrtApi& api = Ort::GetApi();
  const std::string id = std::to_string(device_id);
  OrtCUDAProviderOptionsV2* cuda = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> owner(cuda,
                                                                                                  api.ReleaseCUDAProviderOptions);
  // Memory grows by the request: doubling would take too much of a GPU that shares its memory with the host.
  const std::array<const char*, 2> keys{"device_id", "arena_extend_strategy"}, values{id.c_str(), "kSameAsRequested"};
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size()));
  options.AppendExecutionProvider_CUDA_V2(*cuda);
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

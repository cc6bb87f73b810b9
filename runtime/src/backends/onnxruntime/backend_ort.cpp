// The backend over ONNX Runtime: an Ort::Session per segment, shared by all sessions of a bundle.
#include "backends/onnxruntime/backend_ort.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "backends/onnxruntime/ort_graph.hpp"
#include "backends/onnxruntime/ort_kernels.hpp"
#include "backends/onnxruntime/ort_library.hpp"
#include "backends/onnxruntime/ort_signature.hpp"
#include "backends/segment_tensors.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t alignment = 64;

// The names and tensors of a run's inputs or outputs. Reused, so that runs do not allocate. The tensors are views, unused after
// the run.
struct Arguments {
  std::vector<const char*> names;
  std::vector<Ort::Value> tensors;

  void clear() {
    names.clear();
    tensors.clear();
  }

  // `dynamic`: the size of the tensor's dynamic dimension. `data`: may be null for no elements. Not written if it is an input.
  void add(const TensorSpec& spec, std::size_t dynamic, const void* data, const Ort::MemoryInfo& memory) {
    static std::byte placeholder[alignment];  // ONNX Runtime requires an address even for no elements
    std::array<std::int64_t, 3> shape{};
    std::size_t bytes = bytes_of(spec.type);
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      shape[i] = spec.shape[i] == any_size ? static_cast<std::int64_t>(dynamic) : spec.shape[i];
      bytes *= static_cast<std::size_t>(shape[i]);
    }
    names.push_back(spec.name.c_str());
    tensors.push_back(Ort::Value::CreateTensor(memory, data != nullptr ? const_cast<void*>(data) : placeholder, bytes,
                                               shape.data(), spec.shape.size(), ort_type(spec.type)));
  }
};

// ONNX Runtime has no error code for running out of memory. This looks for the messages of its arena, its allocators and our
// kernels.
rexit_status status_of(const Ort::Exception& error) {
  for (const char* words : {"std::bad_alloc", "Failed to allocate memory"})
    if (std::strstr(error.what(), words) != nullptr) return REXIT_OUT_OF_MEMORY;
  return REXIT_BACKEND_FAILED;
}

// The options of a session's runs. Only their terminate flag is used.
class OrtStop final : public Stop {
 public:
  void request() noexcept override try { options.SetTerminate(); } catch (...) {
  }
  void reset() noexcept override try { options.UnsetTerminate(); } catch (...) {
  }

  Ort::RunOptions options;
};

class OrtBackend final : public Backend {
 public:
  // `min_past`: the minimum number of rows of past keys and values, 0 or 1. A pass with fewer gets padding, which its graphs must
  // mask.
  OrtBackend(const Bundle& bundle, const Execution& execution, const Ort::SessionOptions& options, std::size_t min_past)
      : segments_(bundle.variant().segments),
        min_past_(min_past),
        cpu_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    for (const Segment& segment : segments_) {
      paths_.push_back(bundle.where(segment.graph));
      try {
        sessions_.push_back(load_graph(bundle, segment, options, execution));
        inputs_.push_back(segment_inputs(bundle.model(), segment));
        outputs_.push_back(segment_outputs(bundle.model(), segment));
        check_signature(sessions_.back(), paths_.back(), inputs_.back(), outputs_.back());
      } catch (const Ort::Exception& error) {
        fail(status_of(error), paths_.back(), ": ", error.what());
      }
    }
    for (const Segment& segment : segments_) {
      const std::size_t row = bundle.model().kv_heads * bundle.model().head_dim * bytes_of(segment.cache_dtype);
      if (min_past_ != 0) padding_row_.resize(std::max(padding_row_.size(), row));
    }
    trim();  // releases memory of the load: weights before their rearrangement
  }

  void run(std::size_t index, const Pass& pass) const override {
    thread_local Arguments inputs, outputs;
    inputs.clear();
    outputs.clear();
    try {
      const OrtArena::Run memory(ort_arena());
      add_inputs(index, pass, inputs);
      add_outputs(index, pass, outputs);
      const Ort::RunOptions no_options{nullptr};
      sessions_[index].Run(pass.stop != nullptr ? static_cast<const OrtStop*>(pass.stop)->options : no_options,
                           inputs.names.data(), inputs.tensors.data(), inputs.tensors.size(), outputs.names.data(),
                           outputs.tensors.data(), outputs.tensors.size());
    } catch (const Ort::Exception& error) {
      fail(status_of(error), paths_[index], ": ", error.what());
    }
  }

  void* allocate(std::size_t bytes) const override { return ::operator new(bytes, std::align_val_t(alignment)); }
  void release(void* memory) const noexcept override { ::operator delete(memory, std::align_val_t(alignment)); }
  void copy(void* to, const void* from, std::size_t bytes) const override { std::memmove(to, from, bytes); }
  std::unique_ptr<Stop> make_stop() const override { return std::make_unique<OrtStop>(); }
  BackendMemory memory() const override { return {ort_arena().usage().runs, ort_arena().usage().weights}; }
  void trim() const override { ort_arena().trim(); }

 private:
  void add_inputs(std::size_t index, const Pass& pass, Arguments& inputs) const {
    const Segment& segment = segments_[index];
    const PassSizes sizes(pass, min_past_);
    auto spec = inputs_[index].begin();
    const auto add = [&](const void* data) {
      inputs.add(*spec, sizes.size(spec->dynamic), data, cpu_);
      ++spec;
    };
    add(segment.first ? pass.token_ids : pass.hidden_in);
    for (const std::int64_t* data : {pass.positions, pass.groups, pass.row_index}) add(data);
    if (!segment.vectors.empty()) add(pass.vectors);
    const void* padding = padding_row_.empty() ? nullptr : padding_row_.data();
    for (const void* const* past : {pass.past_keys, pass.past_values})
      for (std::size_t i = 0; i < segment.layers(); ++i) add(pass.prefix == 0 ? padding : past[i]);
  }

  void add_outputs(std::size_t index, const Pass& pass, Arguments& outputs) const {
    const Segment& segment = segments_[index];
    const PassSizes sizes(pass, min_past_);
    auto spec = outputs_[index].begin();
    const auto add = [&](void* data) {
      if (data != nullptr) outputs.add(*spec, sizes.size(spec->dynamic), data, cpu_);
      ++spec;
    };
    if (!segment.last) add(pass.hidden_out);
    add(pass.logits);
    for (void* const* caches : {pass.new_keys, pass.new_values})
      for (std::size_t i = 0; caches != nullptr && i < segment.layers(); ++i) add(caches[i]);
  }

  const std::vector<Segment> segments_;  // copies: a reloaded bundle shares the backend and may outlive the bundle loaded first
  const std::size_t min_past_;
  std::vector<std::vector<TensorSpec>> inputs_, outputs_;  // by segment
  std::vector<std::string> paths_;                         // the graphs', for messages
  std::vector<std::byte> padding_row_;                     // zeros: a row of any segment's keys
  Ort::MemoryInfo cpu_;
  mutable std::vector<Ort::Session> sessions_;  // Session::Run is thread-safe, but not const
};

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

void append_cuda(Ort::SessionOptions& options, std::int32_t device_id) {
  const std::vector<std::string> available = available_providers();
  if (std::find(available.begin(), available.end(), "CUDAExecutionProvider") == available.end())
    fail(REXIT_BACKEND_MISSING, "device `cuda` needs CUDAExecutionProvider, but this ONNX Runtime has only ", list_of(available),
         "; use the library from the package onnxruntime-gpu");
  const OrtApi& api = Ort::GetApi();
  const std::string id = std::to_string(device_id);
  // Memory grows by the request: doubling would take too much of a GPU that shares its memory with the host.
  const std::array<const char*, 2> keys{"device_id", "arena_extend_strategy"}, values{id.c_str(), "kSameAsRequested"};
  OrtCUDAProviderOptionsV2* cuda = nullptr;
  try {
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> owner(
        cuda, api.ReleaseCUDAProviderOptions);
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } catch (const Ort::Exception& error) {
    fail(REXIT_BACKEND_MISSING, "ONNX Runtime's execution provider cannot be loaded: ", error.what());
  }
}

void append_named_provider(Ort::SessionOptions& options, const Execution& execution) {
  try {
    Ort::ThrowOnError(Ort::GetApi().SessionOptionsAppendExecutionProvider(
        options, execution.provider, execution.provider_keys, execution.provider_values, execution.provider_option_count));
  } catch (const Ort::Exception& error) {
    fail(REXIT_BACKEND_MISSING, "provider `", execution.provider, "`: ", error.what(), "; this ONNX Runtime has ",
         list_of(available_providers()));
  }
}

}  // namespace

void add_ort_conditions(Conditions& here, const Execution& execution) {
  here.threads = ort_threads(execution);
  here.onnxruntime = ort_version();
}

std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider) {
  ort_environment(execution);
  check_opset(bundle.variant().opset, "variant `" + bundle.variant().name + "`", ort_version());
  Ort::SessionOptions options;
  // ONNX Runtime would keep a memory pattern per input shape, and prompts have too many lengths for that.
  options.DisableMemPattern();
  options.AddConfigEntry("session.use_env_allocators", "1");  // the arena of ort_environment
  if (provider == Provider::cuda)
    append_cuda(options, execution.device_id);
  else
    add_kernels(options);
  if (execution.provider != nullptr) append_named_provider(options, execution);
  // Another provider may not accept a dimension of 0. On the CPU nothing is padded: another row would change sums in their last
  // bits.
  const bool on_cpu = provider == Provider::cpu && execution.provider == nullptr;
  const std::size_t min_past = !on_cpu && bundle.variant().past_padding ? 1 : 0;
  return std::make_unique<OrtBackend>(bundle, execution, options, min_past);
}

}  // namespace rexit::core

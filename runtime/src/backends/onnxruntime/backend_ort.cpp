// The backend over ONNX Runtime: an Ort::Session per segment, shared by all sessions of a bundle; and exit zero's graph.
#include "backends/onnxruntime/backend_ort.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backends/onnxruntime/ort_kernels.hpp"
#include "backends/onnxruntime/ort_library.hpp"
#include "backends/segment_tensors.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t alignment = 64;

ONNXTensorElementDataType ort_type(TensorType type) {
  return type == TensorType::int64     ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
         : type == TensorType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : type == TensorType::float16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}

const char* type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return "int8";
    default:
      return "another type";
  }
}

// Checks names, dtypes and shapes of a session's inputs or outputs.
void check_side(const Ort::Session& graph, bool inputs, const std::vector<TensorSpec>& specs, const std::string& path) {
  const char* const side = inputs ? "input" : "output";
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;
  const std::size_t count = inputs ? graph.GetInputCount() : graph.GetOutputCount();
  for (std::size_t i = 0; i < count; ++i)
    names.emplace_back(inputs ? graph.GetInputNameAllocated(i, allocator).get()
                              : graph.GetOutputNameAllocated(i, allocator).get());
  std::set<std::string> checked_names;
  for (const TensorSpec& expected : specs) {
    const auto name = std::find(names.begin(), names.end(), expected.name);
    if (name == names.end()) fail(REXIT_CORRUPT, path, ": the graph has no ", side, " `", expected.name, "`");
    const std::string where = path + ": " + side + " `" + expected.name + "`";
    if (!checked_names.insert(expected.name).second) fail(REXIT_CORRUPT, where, " appears twice in the manifest");
    const auto index = static_cast<std::size_t>(name - names.begin());
    const Ort::TypeInfo info = inputs ? graph.GetInputTypeInfo(index) : graph.GetOutputTypeInfo(index);  // owns `tensor`
    if (info.GetONNXType() != ONNX_TYPE_TENSOR) fail(REXIT_CORRUPT, where, " is not a tensor");
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    if (tensor.GetElementType() != ort_type(expected.type))
      fail(REXIT_CORRUPT, where, " is ", type_name(tensor.GetElementType()), ", expected ", name_of(expected.type));
    const std::vector<std::int64_t> shape = tensor.GetShape();
    if (shape.size() != expected.shape.size())
      fail(REXIT_CORRUPT, where, " has rank ", shape.size(), ", expected ", expected.shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i)
      if (shape[i] >= 0 && shape[i] != expected.shape[i])
        fail(REXIT_CORRUPT, where, " has size ", shape[i], " in dimension ", i, ", expected ",
             expected.shape[i] == any_size ? std::string("a dynamic size") : std::to_string(expected.shape[i]));
  }
  // ONNX Runtime refuses runs without all inputs.
  for (const std::string& name : names)
    if (inputs && checked_names.count(name) == 0)
      fail(REXIT_CORRUPT, path, ": the graph's input `", name, "` is not in the manifest");
}

// Throws REXIT_CORRUPT unless the graph has these inputs and outputs, with their types and shapes, and no other inputs. `path`:
// the graph's, for messages.
void check_signature(const Ort::Session& graph, const std::string& path, const std::vector<TensorSpec>& inputs,
                     const std::vector<TensorSpec>& outputs) {
  check_side(graph, true, inputs, path);
  check_side(graph, false, outputs, path);
}

// The names and tensors of a run's inputs or outputs. The tensors are views, unused after the run.
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
  OrtBackend(const Bundle& bundle, const Ort::SessionOptions& options, std::size_t min_past, std::size_t concurrency)
      : segments_(bundle.variant().segments),
        min_past_(min_past),
        concurrency_(concurrency),
        cpu_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    for (const Segment& segment : segments_) {
      paths_.push_back(bundle.where(segment.graph));
      try {
        sessions_.push_back(load_graph(paths_.back(), options, Pool::shared));
        if (concurrency_ > 1) alone_.push_back(load_graph(paths_.back(), options, Pool::none));
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
  }

  void run(std::size_t index, const Pass& pass) const override {
    thread_local Arguments idle_inputs, idle_outputs;  // so that runs do not allocate
    // Taken out: ONNX Runtime may log during the run, and the log's function may score.
    Arguments inputs = std::move(idle_inputs), outputs = std::move(idle_outputs);
    inputs.clear();
    outputs.clear();
    try {
      add_inputs(index, pass, inputs);
      add_outputs(index, pass, outputs);
      const Ort::RunOptions no_options{nullptr};
      Ort::Session& session = pass.side_by_side > 1 ? alone_[index] : sessions_[index];
      session.Run(pass.stop != nullptr ? static_cast<const OrtStop*>(pass.stop)->options : no_options, inputs.names.data(),
                  inputs.tensors.data(), inputs.tensors.size(), outputs.names.data(), outputs.tensors.data(),
                  outputs.tensors.size());
    } catch (const Ort::Exception& error) {
      fail(status_of(error), paths_[index], ": ", error.what());
    }
    idle_inputs = std::move(inputs);
    idle_outputs = std::move(outputs);
  }

  std::size_t concurrency() const noexcept override { return concurrency_; }
  void* allocate(std::size_t bytes) const override { return ::operator new(bytes, std::align_val_t(alignment)); }
  void release(void* memory) const noexcept override { ::operator delete(memory, std::align_val_t(alignment)); }
  void copy(void* to, const void* from, std::size_t bytes) const override { std::memmove(to, from, bytes); }
  std::unique_ptr<Stop> make_stop() const override { return std::make_unique<OrtStop>(); }

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
  const std::size_t min_past_, concurrency_;
  std::vector<std::vector<TensorSpec>> inputs_, outputs_;  // by segment
  std::vector<std::string> paths_;                         // the graphs', for messages
  std::vector<std::byte> padding_row_;                     // zeros: a row of any segment's keys
  Ort::MemoryInfo cpu_;
  mutable std::vector<Ort::Session> sessions_;  // Session::Run is thread-safe, but not const
  mutable std::vector<Ort::Session> alone_;     // the same without a pool, for passes side by side, if there may be such
};

class OrtZeroGraph final : public ZeroGraph {
 public:
  explicit OrtZeroGraph(const Bundle& bundle)
      : path_(bundle.where(bundle.zero())),
        width_(bundle.program().numbers.size()),
        cpu_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    try {
      session_ = load_graph(path_, graph_options(), Pool::none);
      check_signature();
    } catch (const Ort::Exception& error) {
      fail(REXIT_BACKEND_FAILED, path_, ": ", error.what());
    }
  }

  void run(const float* numbers, std::size_t rows, float* log_odds) const override {
    const std::array<std::int64_t, 2> in{static_cast<std::int64_t>(rows), static_cast<std::int64_t>(width_)};
    const std::array<std::int64_t, 2> out{in[0], 1};
    const char *input_name = input_.c_str(), *output_name = output_.c_str();
    try {
      const Ort::Value input = Ort::Value::CreateTensor<float>(cpu_, const_cast<float*>(numbers), rows * width_, in.data(), 2);
      Ort::Value output = Ort::Value::CreateTensor<float>(cpu_, log_odds, rows, out.data(), output_rank_);
      session_.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, &output_name, &output, 1);
    } catch (const Ort::Exception& error) {
      fail(REXIT_BACKEND_FAILED, path_, ": ", error.what());
    }
  }

 private:
  void check_signature() {
    if (session_.GetInputCount() != 1 || session_.GetOutputCount() == 0)
      fail(REXIT_CORRUPT, path_, ": has ", session_.GetInputCount(), " inputs and ", session_.GetOutputCount(),
           " outputs, expected one of each");
    Ort::AllocatorWithDefaultOptions allocator;
    input_ = session_.GetInputNameAllocated(0, allocator).get();
    output_ = session_.GetOutputNameAllocated(0, allocator).get();
    const std::vector<std::int64_t> in = float_shape(session_.GetInputTypeInfo(0), "input");
    const std::vector<std::int64_t> out = float_shape(session_.GetOutputTypeInfo(0), "output");
    if (in.size() != 2 || in[0] >= 0 || (in[1] >= 0 && in[1] != static_cast<std::int64_t>(width_)))
      fail(REXIT_CORRUPT, path_, ": input is ", text(in), ", expected [N, ", width_, "], for the prompt's `numbers`");
    if (out.empty() || out.size() > 2 || out[0] >= 0 || (out.size() == 2 && out[1] >= 0 && out[1] != 1))
      fail(REXIT_CORRUPT, path_, ": output is ", text(out), ", expected [N] or [N, 1]");
    output_rank_ = out.size();
  }

  // Throws REXIT_CORRUPT for anything but a tensor of float32.
  std::vector<std::int64_t> float_shape(const Ort::TypeInfo& info, const char* side) const {
    if (info.GetONNXType() != ONNX_TYPE_TENSOR ||
        info.GetTensorTypeAndShapeInfo().GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
      fail(REXIT_CORRUPT, path_, ": ", side, " is no tensor of float32");
    return info.GetTensorTypeAndShapeInfo().GetShape();
  }

  static std::string text(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + (size < 0 ? "N" : std::to_string(size));
    return text + "]";
  }

  std::string path_, input_, output_;
  std::size_t width_, output_rank_ = 0;
  Ort::MemoryInfo cpu_;
  mutable Ort::Session session_{nullptr};  // Session::Run is thread-safe, but not const
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

void add_ort_conditions(Conditions& here) {
  here.threads = ort_threads();
  here.onnxruntime = ort_version();
}

std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider) {
  ort_environment(execution);
  check_opset(bundle.variant().opset, "variant `" + bundle.variant().name + "`", ort_version());
  Ort::SessionOptions options = graph_options();
  if (provider == Provider::cuda)
    append_cuda(options, execution.device_id);
  else
    add_kernels(options);
  if (execution.provider != nullptr) append_named_provider(options, execution);
  // Another provider may not accept a dimension of 0. On the CPU nothing is padded: another row would change sums in their last
  // bits.
  const bool on_cpu = provider == Provider::cpu && execution.provider == nullptr;
  const std::size_t min_past = !on_cpu && bundle.variant().past_padding ? 1 : 0;
  const std::size_t concurrency =
      on_cpu && reads_weights_from_file(bundle.variant().precision) ? static_cast<std::size_t>(ort_threads()) : 1;
  return std::make_unique<OrtBackend>(bundle, options, min_past, concurrency);
}

std::shared_ptr<const ZeroGraph> make_ort_zero_graph(const Bundle& bundle, const Execution& execution) {
  ort_environment(execution);
  return std::make_shared<const OrtZeroGraph>(bundle);
}

}  // namespace rexit::core

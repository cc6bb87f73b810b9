// The backend over ONNX Runtime: an Ort::Session per segment, shared by all sessions of a bundle.
#include "backends/onnxruntime/backend_ort.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <optional>
#include <set>
#include <vector>

#include "backends/onnxruntime/ort_kernels.hpp"
#include "backends/onnxruntime/ort_library.hpp"
#include "backends/onnxruntime/ort_provider.hpp"
#include "backends/segment_tensors.hpp"
#include "base/platform.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

using Shape = std::vector<std::int64_t>;

// The sizes of a tensor of rank 1 to 3.
struct Sizes {
  Sizes(std::int64_t a) : size{a, 0, 0}, rank(1) {}
  Sizes(std::int64_t a, std::int64_t b) : size{a, b, 0}, rank(2) {}
  Sizes(std::int64_t a, std::int64_t b, std::int64_t c) : size{a, b, c}, rank(3) {}

  std::array<std::int64_t, 3> size;
  std::size_t rank;
};
constexpr std::size_t alignment = 64;

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

// ONNX Runtime has no error code for running out of memory. This looks for the messages of its arena, its allocators and our
// kernels.
rexit_status status_of(const Ort::Exception& error) {
  for (const char* words : {"std::bad_alloc", "Failed to allocate memory"})
    if (std::strstr(error.what(), words) != nullptr) return REXIT_OUT_OF_MEMORY;
  return REXIT_BACKEND_FAILED;
}

ONNXTensorElementDataType ort_type(TensorType type) {
  return type == TensorType::int64     ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
         : type == TensorType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : type == TensorType::float16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
}
ONNXTensorElementDataType ort_type(Element element) { return ort_type(type_of(element)); }

// Checks names, dtypes and shapes of a session's inputs or outputs.
class Signature {
 public:
  Signature(const Ort::Session& session, bool inputs, std::string where)
      : session_(session), inputs_(inputs), where_(std::move(where)) {
    Ort::AllocatorWithDefaultOptions allocator;
    const std::size_t count = inputs ? session.GetInputCount() : session.GetOutputCount();
    for (std::size_t i = 0; i < count; ++i)
      names_.emplace_back(inputs ? session.GetInputNameAllocated(i, allocator).get()
                                 : session.GetOutputNameAllocated(i, allocator).get());
  }

  void check(const TensorSpec& expected) {
    const auto name = std::find(names_.begin(), names_.end(), expected.name);
    if (name == names_.end()) fail(REXIT_CORRUPT, where_, ": the graph has no ", side(), " `", expected.name, "`");
    if (!checked_names_.insert(expected.name).second)
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` appears twice in the manifest");
    const auto index = static_cast<std::size_t>(name - names_.begin());
    // `info` owns the data of `tensor`.
    const Ort::TypeInfo info = inputs_ ? session_.GetInputTypeInfo(index) : session_.GetOutputTypeInfo(index);
    if (info.GetONNXType() != ONNX_TYPE_TENSOR)
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` is not a tensor");
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    if (tensor.GetElementType() != ort_type(expected.type))
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` is ", type_name(tensor.GetElementType()), ", expected ",
           name_of(expected.type));
    const Shape shape = tensor.GetShape();
    if (shape.size() != expected.shape.size())
      fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` has rank ", shape.size(), ", expected ",
           expected.shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i)
      if (expected.shape[i] == any_size ? shape[i] >= 0 : shape[i] >= 0 && shape[i] != expected.shape[i])
        fail(REXIT_CORRUPT, where_, ": ", side(), " `", expected.name, "` has size ", shape[i], " in dimension ", i,
             ", expected ", expected.shape[i] == any_size ? std::string("a dynamic size") : std::to_string(expected.shape[i]));
  }

  // For inputs: ONNX Runtime refuses runs without all of them.
  void check_no_unchecked() const {
    for (const std::string& name : names_)
      if (checked_names_.count(name) == 0)
        fail(REXIT_CORRUPT, where_, ": the graph's ", side(), " `", name, "` is not in the manifest");
  }

 private:
  const char* side() const { return inputs_ ? "input" : "output"; }

  const Ort::Session& session_;
  bool inputs_;
  std::string where_;
  std::vector<std::string> names_;
  std::set<std::string> checked_names_;
};

// A graph to load: from its path, with weights beside it; or from memory, if the bundle is not in a folder.
struct Graph {
  std::string path;  // for messages
  std::optional<File> contents, weights;
  std::string weights_name;  // in the graph

  Graph(const Bundle& bundle, const Segment& segment) : path(bundle.where(segment.graph)) {
    if (bundle.source()->is_folder()) return;
    contents = bundle.source()->open(segment.graph);
    if (segment.weights.empty()) return;
    require_loading_from_memory();
    weights = bundle.source()->open(segment.weights).aligned();
    // Relative to the graph.
    const std::string folder = segment.graph.substr(0, segment.graph.rfind('/') + 1);
    const bool is_beside = segment.weights.compare(0, folder.size(), folder) == 0;
    weights_name = is_beside ? segment.weights.substr(folder.size()) : segment.weights;
  }

  Ort::Session load(const Ort::Env& env, const Ort::SessionOptions& options) const {
    return contents ? Ort::Session(env, contents->data(), contents->size(), options)
                    : Ort::Session(env, platform::native_path(path).c_str(), options);
  }

  // ONNX Runtime copies the weights while it loads the graph.
  void add_weights(Ort::SessionOptions& options) const {
#if ORT_API_VERSION >= 18
    if (!weights) return;
    const platform::NativePath native_name = platform::native_path(weights_name);
    const auto* name = native_name.c_str();
    char* data = reinterpret_cast<char*>(const_cast<unsigned char*>(weights->data()));
    const std::size_t size = weights->size();
    Ort::ThrowOnError(Ort::GetApi().AddExternalInitializersFromFilesInMemory(options, &name, &data, &size, 1));
#endif
  }
};

// ONNX Runtime has a single environment per process. If the host program has created it, it may have no pool for sessions to
// share, and every segment gets its own pool. That pool does not spin unless the caller says so, which would take cores from the
// running segment.
Ort::Session load(const Ort::Env& env, const Graph& graph, const Ort::SessionOptions& common, const Execution& execution) {
  Ort::SessionOptions options = common.Clone();
  graph.add_weights(options);
  if (!execution.own_threads) {
    Ort::SessionOptions shared_pool = options.Clone();
    shared_pool.DisablePerSessionThreads();
    try {
      return graph.load(env, shared_pool);
    } catch (const Ort::Exception& error) {
      if (std::strstr(error.what(), "CreateEnvWithGlobalThreadPools") == nullptr) throw;
    }
  }
  Ort::SessionOptions own_pool = options.Clone();
  own_pool.SetIntraOpNumThreads(ort_threads(execution))
      .AddConfigEntry("session.intra_op.allow_spinning", execution.spinning == REXIT_SPINNING_ON ? "1" : "0");
  return graph.load(env, own_pool);
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
      : model_(bundle.model()),
        segments_(bundle.variant().segments),
        min_past_(min_past),
        cpu_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    const Ort::Env& env = ort_environment(execution);
    for (const Segment& segment : segments_) {
      const Graph graph(bundle, segment);
      paths_.push_back(graph.path);
      try {
        sessions_.push_back(load(env, graph, options, execution));
        check(segment, graph.path, sessions_.back());
      } catch (const Ort::Exception& error) {
        fail(status_of(error), graph.path, ": ", error.what());
      }
    }
    for (const Segment& segment : segments_)
      if (min_past_ != 0)
        padding_row_.resize(
            std::max(padding_row_.size(), model_.kv_heads * segment.cache_width(model_) * bytes_of(segment.cache_dtype)));
    trim();  // releases memory of the load: weights before their rearrangement
  }

  void run(std::size_t index, const Pass& pass) const override {
    const Segment& segment = segments_[index];
    // Reused, so that runs do not allocate. The values are views, unused after the run.
    thread_local std::vector<const char*> input_names, output_names;
    thread_local std::vector<Ort::Value> inputs, outputs;
    for (auto* names : {&input_names, &output_names}) names->clear();
    for (auto* values : {&inputs, &outputs}) values->clear();
    const auto tokens = static_cast<std::int64_t>(pass.tokens), rows = static_cast<std::int64_t>(pass.rows);
    const auto hidden = static_cast<std::int64_t>(model_.hidden_size);
    const auto input = [&](const std::string& name, const void* data, ONNXTensorElementDataType type, Sizes shape) {
      input_names.push_back(name.c_str());
      inputs.push_back(view(const_cast<void*>(data), type, shape));  // ONNX Runtime only reads its inputs
    };
    const auto output = [&](const std::string& name, void* data, ONNXTensorElementDataType type, Sizes shape) {
      output_names.push_back(name.c_str());
      outputs.push_back(view(data, type, shape));
    };
    try {
      const OrtArena::Run memory(ort_arena());
      if (segment.first) {
        input(segment.source, pass.token_ids, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {tokens});
      } else {
        input(segment.source, pass.hidden_in, ort_type(segment.hidden_dtype), {tokens, hidden});
      }
      input(segment.positions, pass.positions, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {tokens});
      input(segment.groups, pass.groups, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {tokens});
      input(segment.rows, pass.row_index, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {rows});
      if (!segment.vectors.empty())
        input(segment.vectors, pass.vectors, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
              {static_cast<std::int64_t>(pass.vector_rows), hidden});
      for (std::size_t i = 0; i < segment.layers(); ++i) {
        const Sizes shape = cache_shape(segment, std::max(pass.prefix, min_past_));
        const void* padding = padding_row_.empty() ? nullptr : padding_row_.data();
        input(segment.past_keys[i], pass.prefix == 0 ? padding : pass.past_keys[i], ort_type(segment.cache_dtype), shape);
        input(segment.past_values[i], pass.prefix == 0 ? padding : pass.past_values[i], ort_type(segment.cache_dtype), shape);
      }
      if (pass.hidden_out != nullptr) output(segment.hidden, pass.hidden_out, ort_type(segment.hidden_dtype), {tokens, hidden});
      if (pass.logits != nullptr)
        output(segment.logits, pass.logits, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
               {rows, static_cast<std::int64_t>(2 * segment.objectives)});
      for (std::size_t i = 0; pass.new_keys != nullptr && i < segment.layers(); ++i) {
        output(segment.new_keys[i], pass.new_keys[i], ort_type(segment.cache_dtype), cache_shape(segment, pass.tokens));
        output(segment.new_values[i], pass.new_values[i], ort_type(segment.cache_dtype), cache_shape(segment, pass.tokens));
      }
      const Ort::RunOptions no_options{nullptr};
      sessions_[index].Run(pass.stop != nullptr ? static_cast<const OrtStop*>(pass.stop)->options : no_options,
                           input_names.data(), inputs.data(), inputs.size(), output_names.data(), outputs.data(), outputs.size());
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
  void check(const Segment& segment, const std::string& graph, const Ort::Session& session) const {
    Signature inputs(session, true, graph), outputs(session, false, graph);
    for (const TensorSpec& spec : segment_inputs(model_, segment)) inputs.check(spec);
    inputs.check_no_unchecked();
    for (const TensorSpec& spec : segment_outputs(model_, segment)) outputs.check(spec);
  }

  Sizes cache_shape(const Segment& segment, std::size_t tokens) const {
    return {static_cast<std::int64_t>(model_.kv_heads), static_cast<std::int64_t>(tokens),
            static_cast<std::int64_t>(segment.cache_width(model_))};
  }

  Ort::Value view(void* data, ONNXTensorElementDataType type, Sizes shape) const {
    static std::byte placeholder[alignment];  // ONNX Runtime requires an address even for no elements
    std::size_t bytes = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64     ? 8
                        : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT   ? 4
                        : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2
                                                                        : 1;
    for (std::size_t i = 0; i < shape.rank; ++i) bytes *= static_cast<std::size_t>(shape.size[i]);
    return Ort::Value::CreateTensor(cpu_, data != nullptr ? data : placeholder, bytes, shape.size.data(), shape.rank, type);
  }

  const Model model_;  // copies: a reloaded bundle shares the backend and may outlive the bundle it was loaded from
  const std::vector<Segment> segments_;
  const std::size_t min_past_;
  std::vector<std::string> paths_;      // the graphs', for messages
  std::vector<std::byte> padding_row_;  // zeros: a row of any segment's keys
  Ort::MemoryInfo cpu_;
  mutable std::vector<Ort::Session> sessions_;  // Session::Run is thread-safe, but not const
};

}  // namespace

void require_opset(const Execution& execution, const Variant& variant) {
  ort_environment(execution);
  check_opset(variant.opset, "variant `" + variant.name + "`");
}

void add_ort_conditions(Conditions& here, const Execution& execution) {
  here.threads = ort_threads(execution);
  here.onnxruntime = ort_version();
}

std::unique_ptr<Backend> make_ort_backend(const Bundle& bundle, const Execution& execution, Provider provider) {
  ort_environment(execution);
  check_provider(provider);
  Ort::SessionOptions options;
  // ONNX Runtime would keep a memory pattern per input shape, and prompts have too many lengths for that.
  options.DisableMemPattern();
  options.AddConfigEntry("session.use_env_allocators", "1");  // the arena of ort_environment
  if (provider == Provider::cpu) add_kernels(options);
  const bool on_cpu = provider == Provider::cpu && execution.provider == nullptr;
  if (execution.provider != nullptr) append_named_provider(options, execution);
  try {
    append_provider(options, provider, execution.device_id);
  } catch (const Ort::Exception& error) {
    fail(REXIT_BACKEND_MISSING, "ONNX Runtime's execution provider cannot be loaded: ", error.what());
  }
  // Another provider may not accept a dimension of 0. On the CPU nothing is padded: another row would change sums in their last
  // bits.
  const std::size_t min_past = !on_cpu && bundle.variant().past_padding ? 1 : 0;
  return std::make_unique<OrtBackend>(bundle, execution, options, min_past);
}

}  // namespace rexit::core

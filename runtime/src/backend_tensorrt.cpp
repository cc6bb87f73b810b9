#include "backend_tensorrt.hpp"

#include <NvInfer.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "accelerator.hpp"
#include "cuda.hpp"
#include "engines.hpp"
#include "mapped_file.hpp"
#include "segment_tensors.hpp"
#include "status.hpp"

namespace rexit::core {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::TensorIOMode;

constexpr std::size_t alignment = 256;  // of every tensor in device memory: cudaMalloc's own

std::size_t aligned(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// TensorRT's messages as log lines; the last error of each thread explains the call that then fails.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    try {
      if (severity <= Severity::kERROR) last_error() = message;
      if (severity == Severity::kVERBOSE) return;
      core::log(severity <= Severity::kERROR     ? REXIT_LOG_ERROR
                : severity == Severity::kWARNING ? REXIT_LOG_WARNING
                                                 : REXIT_LOG_DEBUG,
                std::string("tensorrt: ") + message);
    } catch (...) {  // out of memory: the line is lost
    }
  }

  // Taken: the next call's failure must not be explained by this one.
  static std::string take_error() {
    std::string error;
    error.swap(last_error());
    std::replace(error.begin(), error.end(), '\n', ' ');
    return error.empty() ? "it gives no reason" : error;
  }
  static void forget_error() noexcept { last_error().clear(); }

 private:
  static std::string& last_error() noexcept {
    thread_local std::string error;
    return error;
  }
};

// Never destroyed: TensorRT keeps the first one it was given.
Logger& logger() {
  static Logger& only = *new Logger;
  return only;
}

DataType tensorrt_type(TensorType type) {
  return type == TensorType::int64 ? DataType::kINT64 : type == TensorType::float32 ? DataType::kFLOAT : DataType::kHALF;
}

const char* name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "float32";
    case DataType::kHALF:
      return "float16";
    case DataType::kINT64:
      return "int64";
    case DataType::kINT32:
      return "int32";
    default:
      return "another type";
  }
}

Dims dims(const std::vector<std::int64_t>& shape, std::size_t dynamic) {
  Dims result{};
  result.nbDims = static_cast<std::int32_t>(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i)
    result.d[i] = shape[i] == any_size ? static_cast<decltype(result.d[0] + 0)>(dynamic) : shape[i];
  return result;
}

std::size_t bytes_of(const TensorSpec& spec, std::size_t dynamic) {
  std::size_t bytes = bytes_of(spec.type);
  for (const std::int64_t n : spec.shape) bytes *= n == any_size ? dynamic : static_cast<std::size_t>(n);
  return bytes;
}

// A plan loaded, with what it takes and gives.
struct Loaded {
  Plan plan;
  std::vector<TensorSpec> inputs, outputs;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
};

void check_tensor(const Loaded& loaded, const TensorSpec& spec, TensorIOMode mode) {
  const char* side = mode == TensorIOMode::kINPUT ? "input" : "output";
  const nvinfer1::ICudaEngine& engine = *loaded.engine;
  const std::string& where = loaded.plan.path;
  if (engine.getTensorIOMode(spec.name.c_str()) != mode)
    fail(REXIT_CORRUPT, where, ": the engine has no ", side, " `", spec.name, "`");
  const DataType type = engine.getTensorDataType(spec.name.c_str());
  if (type != tensorrt_type(spec.type))
    fail(REXIT_CORRUPT, where, ": ", side, " `", spec.name, "` is ", name_of(type), ", expected ", core::name_of(spec.type));
  const Dims seen = engine.getTensorShape(spec.name.c_str());
  bool fits = seen.nbDims == static_cast<std::int32_t>(spec.shape.size());
  for (std::size_t i = 0; fits && i < spec.shape.size(); ++i) fits = seen.d[i] == spec.shape[i];
  if (!fits) {
    const auto text = [](const auto* sizes, std::size_t count) {
      std::string all;
      for (std::size_t i = 0; i < count; ++i)
        all += (i == 0 ? "" : ", ") + (sizes[i] == any_size ? std::string("dynamic") : std::to_string(sizes[i]));
      return "[" + all + "]";
    };
    fail(REXIT_CORRUPT, where, ": ", side, " `", spec.name, "` has shape ",
         text(seen.d, static_cast<std::size_t>(std::clamp(seen.nbDims, 0, 8))), ", expected ",
         text(spec.shape.data(), spec.shape.size()));
  }
}

void check_tensors(const Loaded& loaded) {
  for (const TensorSpec& spec : loaded.inputs) check_tensor(loaded, spec, TensorIOMode::kINPUT);
  for (const TensorSpec& spec : loaded.outputs) check_tensor(loaded, spec, TensorIOMode::kOUTPUT);
  const std::size_t known = loaded.inputs.size() + loaded.outputs.size();
  const auto seen = static_cast<std::size_t>(loaded.engine->getNbIOTensors());
  if (seen != known)
    fail(REXIT_CORRUPT, loaded.plan.path, ": the engine has ", seen, " inputs and outputs, the manifest names ", known);
}

void check_range(const Loaded& loaded, std::size_t seen, const Range& range, const char* what) {
  if (seen >= range.least && seen <= range.most) return;
  fail(seen > range.most ? REXIT_TOO_LONG : REXIT_BACKEND_FAILED, loaded.plan.path, ": ", seen, " ", what,
       ", the engine was compiled for ", range.least, " to ", range.most);
}

// What one pass needs besides the engines: a stream, execution contexts, and memory. One thread at a time.
class Worker {
 public:
  Worker(const std::vector<Loaded>& engines, const std::string& where)
      : engines_(engines), stream_(where), contexts_(engines.size()) {}

  void run(std::size_t segment, const Pass& pass) {
    const Loaded& loaded = engines_[segment];
    const std::string& where = loaded.plan.path;
    check_range(loaded, pass.tokens, loaded.plan.tokens, "tokens");
    check_range(loaded, pass.prefix, loaded.plan.prefix, "prefix tokens");
    check_range(loaded, pass.rows, loaded.plan.rows, "rows");
    Logger::forget_error();
    context_ = &context(segment);
    where_ = &where;

    // Indices are small: gathered in pinned memory they go to the device in one copy, which needs no wait.
    const std::size_t tokens = pass.tokens * sizeof(std::int64_t), rows = pass.rows * sizeof(std::int64_t);
    const std::array<std::pair<const std::int64_t*, std::size_t>, 4> indices{
        {{pass.token_ids, loaded.inputs[0].type == TensorType::int64 ? tokens : 0},
         {pass.positions, tokens},
         {pass.groups, tokens},
         {pass.row_index, rows}}};
    std::size_t bytes = 0;
    for (const auto& [data, size] : indices) bytes += aligned(size);
    std::byte* staged = staged_.reserve(bytes, where + ": pinned memory for inputs");
    std::byte* placed = placed_.reserve(bytes, where + ": device memory for inputs");
    std::array<const void*, 4> addresses{};
    std::size_t at = 0;
    for (std::size_t i = 0; i < indices.size(); ++i) {
      if (indices[i].second != 0) std::memcpy(staged + at, indices[i].first, indices[i].second);
      addresses[i] = placed + at;
      at += aligned(indices[i].second);
    }
    cuda::check(cudaMemcpyAsync(placed, staged, bytes, cudaMemcpyHostToDevice, stream_.get()), where + ": copying inputs");

    const bool first = loaded.inputs[0].type == TensorType::int64;
    input(loaded.inputs[0], pass.tokens, first ? addresses[0] : pass.hidden_in);
    for (std::size_t i = 1; i < 4; ++i) input(loaded.inputs[i], i == 3 ? pass.rows : pass.tokens, addresses[i]);
    const std::size_t layers = (loaded.inputs.size() - 4) / 2;
    for (std::size_t i = 0; i < layers; ++i) {
      input(loaded.inputs[4 + i], pass.prefix, pass.prefix == 0 ? placed : pass.past_keys[i]);
      input(loaded.inputs[4 + layers + i], pass.prefix, pass.prefix == 0 ? placed : pass.past_values[i]);
    }

    // TensorRT writes every output: those that nobody wants go to scratch memory.
    const std::size_t heads = loaded.outputs.size() - 2 * layers, logits = heads - 1;
    std::vector<void*> results(loaded.outputs.size(), nullptr);
    if (heads == 2) results[0] = pass.hidden_out;
    for (std::size_t i = 0; pass.new_keys != nullptr && i < layers; ++i) {
      results[heads + i] = pass.new_keys[i];
      results[heads + layers + i] = pass.new_values[i];
    }
    const auto dynamic = [&](std::size_t i) { return i == logits ? pass.rows : pass.tokens; };
    std::size_t spare = 0;
    for (std::size_t i = 0; i < results.size(); ++i)
      if (results[i] == nullptr) spare += aligned(bytes_of(loaded.outputs[i], dynamic(i)));
    std::byte* scratch = scratch_.reserve(spare, where + ": device memory for outputs");
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (results[i] == nullptr) {
        results[i] = scratch;
        scratch += aligned(bytes_of(loaded.outputs[i], dynamic(i)));
      }
      if (!context_->setTensorAddress(loaded.outputs[i].name.c_str(), results[i])) refused(loaded.outputs[i]);
    }

    if (!context_->enqueueV3(stream_.get()))
      fail(REXIT_BACKEND_FAILED, where, ": TensorRT could not run the engine: ", Logger::take_error());
    const std::size_t answer = bytes_of(loaded.outputs[logits], pass.rows);
    std::byte* received = nullptr;
    if (pass.logits != nullptr) {
      received = received_.reserve(answer, where + ": pinned memory for logits");
      cuda::check(cudaMemcpyAsync(received, results[logits], answer, cudaMemcpyDeviceToHost, stream_.get()),
                  where + ": copying logits");
    }
    cuda::check(cudaStreamSynchronize(stream_.get()), where);
    if (received != nullptr) std::memcpy(pass.logits, received, answer);
  }

  // After a failure work may be under way that reads this worker's memory.
  void wait() const noexcept { cudaStreamSynchronize(stream_.get()); }

 private:
  // The contexts of a worker run one after another, so they share their working memory.
  nvinfer1::IExecutionContext& context(std::size_t segment) {
    auto& context = contexts_[segment];
    const Loaded& loaded = engines_[segment];
    if (context == nullptr) {
      context.reset(loaded.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
      if (context == nullptr)
        fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT could not make an execution context: ", Logger::take_error());
    }
    const std::int64_t bytes = loaded.engine->getDeviceMemorySizeV2();
    context->setDeviceMemoryV2(working_.reserve(std::max<std::size_t>(static_cast<std::size_t>(bytes), 1),
                                                loaded.plan.path + ": device memory for the engine"),
                               bytes);
    return *context;
  }

  void input(const TensorSpec& spec, std::size_t dynamic, const void* data) {
    const char* name = spec.name.c_str();
    // TensorRT only reads its inputs.
    if (!context_->setInputShape(name, dims(spec.shape, dynamic)) || !context_->setTensorAddress(name, const_cast<void*>(data)))
      refused(spec);
  }

  [[noreturn]] void refused(const TensorSpec& spec) const {
    fail(REXIT_BACKEND_FAILED, *where_, ": TensorRT refuses tensor `", spec.name, "`: ", Logger::take_error());
  }

  const std::vector<Loaded>& engines_;
  cuda::Stream stream_;
  cuda::DeviceMemory placed_, scratch_, working_;
  cuda::PinnedMemory staged_, received_;
  std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;  // made when first needed; gone before the memory
  nvinfer1::IExecutionContext* context_ = nullptr;                      // of the pass under way
  const std::string* where_ = nullptr;
};

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(const Bundle& bundle, std::int32_t device) : device_(device) {
    const cuda::OnDevice on(device_);
    const Accelerator here = accelerator(device);
    Logger::forget_error();
    runtime_.reset(nvinfer1::createInferRuntime(logger()));
    if (runtime_ == nullptr) fail(REXIT_BACKEND_FAILED, "TensorRT could not start: ", Logger::take_error());
    const std::vector<Plan> plans = find_engines(bundle, here);
    for (std::size_t k = 0; k < plans.size(); ++k) {
      const Segment& segment = bundle.variant().segments[k];
      Loaded loaded{plans[k], segment_inputs(bundle.model(), segment), segment_outputs(bundle.model(), segment), nullptr};
      const MappedFile file(loaded.plan.path);
      loaded.engine.reset(runtime_->deserializeCudaEngine(file.data(), file.size()));
      if (loaded.engine == nullptr)
        fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT ", here.tensorrt_version,
             " could not load the engine: ", Logger::take_error());
      check_tensors(loaded);
      engines_.push_back(std::move(loaded));
    }
  }

  ~TensorRtBackend() override {
    const cuda::OnDevice on(device_);
    idle_.clear();
    engines_.clear();
    runtime_.reset();
  }

  void run(std::size_t segment, const Pass& pass) const override {
    const cuda::OnDevice on(device_);
    std::unique_ptr<Worker> worker = take(segment);
    try {
      worker->run(segment, pass);
    } catch (...) {
      worker->wait();
      give(std::move(worker));
      throw;
    }
    give(std::move(worker));
  }

  void* allocate(std::size_t bytes) const override {
    const cuda::OnDevice on(device_);
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "device memory of " + cuda::wanted(bytes));
    return memory;
  }

  void release(void* memory) const noexcept override {
    const cuda::OnDevice on(device_);
    cudaFree(memory);  // waits for what still uses it
  }

  // Between device memories, without waiting: later passes wait for the legacy stream, as all work here is on streams that
  // synchronize with it. CUDA does not copy between overlapping ranges, so these go over a third place.
  void copy(void* to, const void* from, std::size_t bytes) const override {
    const cuda::OnDevice on(device_);
    const auto copy = [](void* a, const void* b, std::size_t count) {
      cuda::check(cudaMemcpyAsync(a, b, count, cudaMemcpyDeviceToDevice, cudaStreamLegacy), "copying hidden states");
    };
    const auto a = reinterpret_cast<std::uintptr_t>(to), b = reinterpret_cast<std::uintptr_t>(from);
    if ((a < b ? b - a : a - b) >= bytes) {
      copy(to, from, bytes);
      return;
    }
    const std::lock_guard<std::mutex> lock(between_mutex_);
    std::byte* between = between_.reserve(bytes, "device memory for moving hidden states");
    copy(between, from, bytes);
    copy(to, between, bytes);
  }

 private:
  static Accelerator accelerator(std::int32_t device) {
    int count = 0, major = 0, minor = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
      fail(REXIT_BACKEND_MISSING,
           "device `tensorrt`: CUDA finds no GPU: ", cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
    if (device >= count) fail(REXIT_INVALID_ARGUMENT, "device_id is ", device, ", this machine has GPUs 0 to ", count - 1);
    cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the compute capability");
    cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking for the compute capability");
    return {std::to_string(major) + "." + std::to_string(minor), tensorrt_version_text(getInferLibVersion())};
  }

  std::unique_ptr<Worker> take(std::size_t segment) const {
    {
      const std::lock_guard<std::mutex> lock(idle_mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Worker> worker = std::move(idle_.back());
        idle_.pop_back();
        return worker;
      }
    }
    return std::make_unique<Worker>(engines_, engines_[segment].plan.path);
  }

  void give(std::unique_ptr<Worker> worker) const {
    const std::lock_guard<std::mutex> lock(idle_mutex_);
    idle_.push_back(std::move(worker));
  }

  int device_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::vector<Loaded> engines_;
  mutable std::mutex idle_mutex_, between_mutex_;
  mutable std::vector<std::unique_ptr<Worker>> idle_;  // as many as passes have ever run at once
  mutable cuda::DeviceMemory between_;
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt_backend(const Bundle& bundle, std::int32_t device_id) {
  return std::make_unique<TensorRtBackend>(bundle, device_id);
}

}  // namespace rexit::core

// A stand-in for tests, not NVIDIA's header: the part of TensorRT 10's runtime API that rexit uses. It takes the strictest
// reading of NVIDIA's: no dimension is 0, a minimum of 0 becomes 1, and a context has memory before its profile is selected.
//
// A plan is JSON, written by tests/builders/bundles/engines.py: the layers of the segment, its inputs and outputs in the order of
// docs/format.md, its profiles (minimum and maximum of T, P and N), and possibly what to refuse or misreport. What an
// engine computes is a small recurrence over integers below 251, exact in half precision: it depends on everything a segment is
// given, and lets a token see the prefix and its own group's earlier tokens.
#ifndef REXIT_TENSORRT_DOUBLE_NV_INFER_H
#define REXIT_TENSORRT_DOUBLE_NV_INFER_H

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_VERSION 100100  // of the headers: 10.1, older than the library

extern "C" inline std::int32_t getInferLibVersion() { return 100300; }

namespace nvinfer1 {

struct Dims {
  static constexpr std::int32_t MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};
enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT32 = 3, kINT64 = 8 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class TensorLocation : std::int32_t { kDEVICE = 0, kHOST = 1 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kUSER_MANAGED = 2 };

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

}  // namespace nvinfer1

namespace tensorrt_double {

using nvinfer1::DataType;
using nvinfer1::ILogger;

struct Tensor {
  std::string name;
  bool input;
  DataType type;
  std::vector<std::int64_t> shape;
  bool on_host, unknown;  // unknown: its shape is reported as dynamic throughout
};

using Profile = std::array<std::int64_t, 6>;  // minimum and maximum of T, P and N

struct PlanText {
  int begin = 0, end = 0;
  std::int64_t working = 0;
  std::vector<Tensor> tensors;
  std::vector<Profile> profiles;
  std::map<std::string, std::string> refused;  // deserialize, context, enqueue, run -> the reason

  bool read(const std::string& text) {
    const auto plan = nlohmann::ordered_json::parse(text, nullptr, false);
    if (!plan.is_object() || !plan.contains("layers")) return false;
    begin = plan["layers"][0];
    end = plan["layers"][1];
    working = plan["working"];
    for (const char* side : {"inputs", "outputs"})
      for (const auto& [name, tensor] : plan[side].items()) {
        const std::string type = tensor["type"];
        tensors.push_back({name, *side == 'i',
                           type == "float32"   ? DataType::kFLOAT
                           : type == "float16" ? DataType::kHALF
                                               : DataType::kINT64,
                           tensor["shape"].get<std::vector<std::int64_t>>(), tensor.value("host", false),
                           tensor.value("unknown", false)});
      }
    for (const auto& sizes : plan["profiles"]) {
      Profile& profile = profiles.emplace_back();
      for (std::size_t i = 0; i < profile.size(); ++i) {
        const std::int64_t size = sizes[i < 2 ? "tokens" : i < 4 ? "prefix" : "rows"][i % 2];
        profile[i] = std::max<std::int64_t>(size, 1);  // as compilers have done
      }
    }
    if (plan.contains("refuse")) refused = plan["refuse"].get<std::map<std::string, std::string>>();
    return true;
  }

  static constexpr std::size_t first_cache = 4;  // index into the inputs

  const Tensor* find(const std::string& name) const {
    for (const Tensor& tensor : tensors)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }

  // Of an input's dynamic dimension: tokens, positions, groups, rows, then the caches.
  std::pair<std::int64_t, std::int64_t> range(const Tensor& input, std::int32_t profile) const {
    const auto n = static_cast<std::size_t>(&input - tensors.data());
    const std::size_t at = n == 3 ? 4 : n < first_cache ? 0 : 2;
    const Profile& sizes = profiles[static_cast<std::size_t>(profile)];
    return {sizes[at], sizes[at + 1]};
  }
};

inline std::size_t width(DataType type) { return type == DataType::kINT64 ? 8 : type == DataType::kFLOAT ? 4 : 2; }

// Integers from 0 to 2048: all that an engine computes with here.
inline std::int64_t from_half(std::uint16_t half) {
  const int exponent = half >> 10;
  return exponent == 0 ? 0 : static_cast<std::int64_t>(std::ldexp(1024 + (half & 1023), exponent - 25));
}
inline std::uint16_t to_half(std::int64_t value) {
  if (value == 0) return 0;
  int exponent = 0;
  const double mantissa = std::frexp(static_cast<double>(value), &exponent);
  return static_cast<std::uint16_t>((exponent + 14) << 10 | (static_cast<int>(mantissa * 2048) - 1024));
}

struct Bound {
  const Tensor* tensor;
  std::vector<std::int64_t> shape;
  std::byte* data;

  std::size_t count() const {
    std::size_t n = 1;
    for (const std::int64_t size : shape) n *= static_cast<std::size_t>(size);
    return n;
  }
  std::vector<std::int64_t> read() const {
    std::vector<std::int64_t> values(count());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::byte* at = data + i * width(tensor->type);
      if (tensor->type == DataType::kINT64) {
        std::memcpy(&values[i], at, 8);
      } else if (tensor->type == DataType::kHALF) {
        std::uint16_t half;
        std::memcpy(&half, at, 2);
        if ((half >> 10 & 31) == 31) cuda_double::mistake("read memory that was never written");  // all bits set: NaN
        values[i] = from_half(half);
      } else {
        float value;
        std::memcpy(&value, at, 4);
        values[i] = static_cast<std::int64_t>(value);
      }
    }
    return values;
  }
  void write(const std::vector<std::int64_t>& values) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::byte* at = data + i * width(tensor->type);
      const float value = static_cast<float>(values[i]);
      const std::uint16_t half = tensor->type == DataType::kHALF ? to_half(values[i]) : std::uint16_t{0};
      tensor->type == DataType::kHALF ? std::memcpy(at, &half, 2) : std::memcpy(at, &value, 4);
    }
  }
};

// Layers [begin, end) and the head; test_tensorrt.cpp has the same again, without prefix, packing and segments.
inline void compute(const PlanText& plan, const std::vector<Bound>& inputs, const std::vector<Bound>& outputs) {
  const std::vector<std::int64_t> source = inputs[0].read(), positions = inputs[1].read(), groups = inputs[2].read(),
                                  rows = inputs[3].read();
  const auto layers = static_cast<std::size_t>(plan.end - plan.begin);
  const std::size_t first_past = PlanText::first_cache;
  const Bound& cache = inputs[first_past];
  const auto heads = static_cast<std::size_t>(cache.shape[0]), past = static_cast<std::size_t>(cache.shape[1]),
             dim = static_cast<std::size_t>(cache.shape[2]);
  const std::size_t tokens = positions.size(), hidden = heads * dim;
  std::vector<std::int64_t> x(tokens * hidden);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t j = 0; j < hidden; ++j)
      if (inputs[0].shape.size() == 2) {
        x[t * hidden + j] = source[t * hidden + j];
      } else {
        x[t * hidden + j] = (source[t] + 1) * static_cast<std::int64_t>(j + 1) % 251;
      }
  const std::size_t first_cache = outputs.size() - 2 * layers;
  for (std::size_t i = 0; i < layers; ++i) {
    const std::int64_t n = plan.begin + static_cast<std::int64_t>(i);
    const std::vector<std::int64_t> past_keys = inputs[first_past + i].read(),
                                    past_values = inputs[first_past + layers + i].read();
    std::vector<std::int64_t> keys(tokens * hidden), values(tokens * hidden), next(tokens * hidden);
    for (std::size_t h = 0; h < heads; ++h)
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t d = 0; d < dim; ++d) {
          const std::size_t at = (h * tokens + t) * dim + d, j = h * dim + d;
          keys[at] = (x[t * hidden + j] * 13 + positions[t] + n) % 251;
          values[at] = (x[t * hidden + j] * 11 + n + 1) % 251;
        }
    for (std::size_t h = 0; h < heads; ++h)
      for (std::size_t d = 0; d < dim; ++d) {
        std::int64_t prefix = 0;
        const auto in_prefix = std::min(past, static_cast<std::size_t>(positions[0]));  // padding stands behind it
        for (std::size_t p = 0; p < in_prefix; ++p)
          prefix += 2 * past_keys[(h * past + p) * dim + d] + past_values[(h * past + p) * dim + d];
        for (std::size_t t = 0; t < tokens; ++t) {
          std::int64_t sum = prefix;
          for (std::size_t u = 0; u <= t; ++u)
            if (groups[u] == groups[t]) sum += 2 * keys[(h * tokens + u) * dim + d] + values[(h * tokens + u) * dim + d];
          const std::size_t j = h * dim + d;
          next[t * hidden + j] = (x[t * hidden + j] * 3 + sum * 5 + positions[t] * 7 + n) % 251;
        }
      }
    x = next;
    outputs[first_cache + i].write(keys);
    outputs[first_cache + layers + i].write(values);
  }
  if (first_cache == 2) outputs[0].write(x);
  std::vector<std::int64_t> logits;
  for (const std::int64_t row : rows) {
    std::int64_t sum = 0;
    for (std::size_t j = 0; j < hidden; ++j) sum += x[static_cast<std::size_t>(row) * hidden + j];
    logits.push_back(1);
    logits.push_back(1 + sum % 41 - 20);
  }
  outputs[first_cache - 1].write(logits);
}

}  // namespace tensorrt_double

namespace nvinfer1 {

class IExecutionContext {
 public:
  IExecutionContext(const tensorrt_double::PlanText& plan, ILogger& logger) : plan_(plan), logger_(logger) {
    const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
    ++cuda_double::machine().contexts;
    ++cuda_double::machine().contexts_made;
  }
  ~IExecutionContext() {
    const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
    --cuda_double::machine().contexts;
  }

  // For the shapes set from now on; changing it forgets those set before. It may copy to the working memory.
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept {
    if (profile < 0 || static_cast<std::size_t>(profile) >= plan_.profiles.size()) return refuse("no such profile");
    if (working_ == nullptr) return refuse("the profile is selected before the context has memory");
    if (profile != profile_) shapes_.clear();
    profile_ = profile;
    stream_ = stream;
    return true;
  }

  void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept {
    if (reinterpret_cast<std::uintptr_t>(memory) % 256 != 0) cuda_double::mistake("working memory that is not aligned");
    working_ = memory;
    working_size_ = size;
  }

  bool setInputShape(const char* name, const Dims& dims) noexcept {
    const tensorrt_double::Tensor* tensor = plan_.find(name);
    if (tensor == nullptr || !tensor->input || dims.nbDims != static_cast<std::int32_t>(tensor->shape.size()))
      return refuse("no input of this name and rank");
    const auto [least, most] = plan_.range(*tensor, profile_);
    for (std::size_t i = 0; i < tensor->shape.size(); ++i) {
      if (tensor->shape[i] != -1 && dims.d[i] != tensor->shape[i]) return refuse("static dimension differs");
      if (dims.d[i] == 0) return refuse("an empty tensor");
      if (tensor->shape[i] == -1 && (dims.d[i] < least || dims.d[i] > most)) return refuse("outside the profile");
    }
    shapes_[name].assign(dims.d, dims.d + dims.nbDims);
    return true;
  }

  bool setTensorAddress(const char* name, void* data) noexcept {
    if (plan_.find(name) == nullptr || data == nullptr) return refuse("no such tensor, or a null address");
    if (reinterpret_cast<std::uintptr_t>(data) % 256 != 0) return refuse("an address that is not aligned to 256 bytes");
    addresses_[name] = data;
    return true;
  }

  bool enqueueV3(cudaStream_t stream) noexcept {
    cuda_double::Machine& machine = cuda_double::machine();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (plan_.refused.count("enqueue") != 0) return refuse(plan_.refused.at("enqueue").c_str());
    if (!cuda_double::is_stream(stream)) return refuse("work on the legacy stream");
    if (stream_ != nullptr && stream_ != stream) return refuse("the profile was set on another stream");
    for (const cuda_double::Work& work : machine.queue)
      if (work.memory == working_ && work.stream != stream) return refuse("working memory that other work is using");
    if (working_size_ < plan_.working || cuda_double::alias(working_, static_cast<std::size_t>(plan_.working)) == nullptr)
      return refuse("no working memory");
    std::vector<tensorrt_double::Bound> inputs, outputs;
    for (const tensorrt_double::Tensor& tensor : plan_.tensors) {
      if (addresses_.count(tensor.name) == 0) return refuse("a tensor has no address");
      tensorrt_double::Bound bound{&tensor, tensor.shape, nullptr};
      if (tensor.input) {
        if (shapes_.count(tensor.name) == 0) return refuse("an input has no shape");
        bound.shape = shapes_.at(tensor.name);
      } else {
        for (std::int64_t& size : bound.shape)
          if (size == -1) size = (tensor.name.find("logits") == std::string::npos ? inputs[1] : inputs[3]).shape[0];
      }
      bound.data = cuda_double::alias(addresses_.at(tensor.name), bound.count() * tensorrt_double::width(tensor.type));
      if (bound.data == nullptr) return refuse("a tensor does not lie inside device memory");
      (tensor.input ? inputs : outputs).push_back(bound);
    }
    for (const auto& a : outputs)
      for (const auto& b : outputs)
        if (&a != &b && a.data < b.data + b.count() * tensorrt_double::width(b.tensor->type) &&
            b.data < a.data + a.count() * tensorrt_double::width(a.tensor->type))
          return refuse("two outputs overlap");
    ++machine.enqueued;
    cuda_double::issue({stream,
                        [plan = plan_, inputs, outputs] {
                          if (plan.refused.count("run") != 0) return cudaErrorLaunchFailure;
                          tensorrt_double::compute(plan, inputs, outputs);
                          return cudaSuccess;
                        },
                        working_});
    return true;
  }

 private:
  bool refuse(const char* why) const noexcept {
    logger_.log(ILogger::Severity::kERROR, why);
    return false;
  }

  const tensorrt_double::PlanText& plan_;
  ILogger& logger_;
  std::int32_t profile_ = 0;
  cudaStream_t stream_ = nullptr;
  void* working_ = nullptr;
  std::int64_t working_size_ = 0;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
  std::map<std::string, void*> addresses_;
};

class ICudaEngine {
 public:
  ICudaEngine(tensorrt_double::PlanText plan, ILogger& logger) : plan_(std::move(plan)), logger_(logger) {
    const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
    ++cuda_double::machine().loaded;
  }
  ~ICudaEngine() {
    const std::lock_guard<std::mutex> lock(cuda_double::machine().mutex);
    --cuda_double::machine().loaded;
  }

  std::int32_t getNbIOTensors() const noexcept { return static_cast<std::int32_t>(plan_.tensors.size()); }
  TensorIOMode getTensorIOMode(const char* name) const noexcept {
    const auto* tensor = plan_.find(name);
    return tensor == nullptr ? TensorIOMode::kNONE : tensor->input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char* name) const noexcept { return plan_.find(name)->type; }
  Dims getTensorShape(const char* name) const noexcept {
    Dims dims{};
    for (const std::int64_t n : plan_.find(name)->shape) dims.d[dims.nbDims++] = plan_.find(name)->unknown ? -1 : n;
    return dims;
  }
  TensorLocation getTensorLocation(const char* name) const noexcept {
    return plan_.find(name)->on_host ? TensorLocation::kHOST : TensorLocation::kDEVICE;
  }
  std::int32_t getNbOptimizationProfiles() const noexcept { return static_cast<std::int32_t>(plan_.profiles.size()); }
  Dims getProfileShape(const char* name, std::int32_t profile, OptProfileSelector select) const noexcept {
    const auto* tensor = plan_.find(name);
    if (tensor == nullptr || !tensor->input || profile < 0 || profile >= getNbOptimizationProfiles()) return {-1, {}};
    const auto [least, most] = plan_.range(*tensor, profile);
    Dims dims{};
    for (const std::int64_t n : tensor->shape)
      dims.d[dims.nbDims++] = n != -1 ? n : select == OptProfileSelector::kMAX ? most : least;
    return dims;
  }
  std::int64_t getDeviceMemorySizeV2() const noexcept { return plan_.working; }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept {
    if (plan_.refused.count("context") != 0) {
      logger_.log(ILogger::Severity::kERROR, plan_.refused.at("context").c_str());
      return nullptr;
    }
    return new IExecutionContext(plan_, logger_);
  }

 private:
  tensorrt_double::PlanText plan_;
  ILogger& logger_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger) : logger_(logger) {}

  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept {
    tensorrt_double::PlanText plan;
    if (!plan.read(std::string(static_cast<const char*>(data), size))) {
      logger_.log(ILogger::Severity::kERROR, "magic tag does not match");
      return nullptr;
    }
    if (plan.refused.count("deserialize") != 0) {
      logger_.log(ILogger::Severity::kERROR, plan.refused.at("deserialize").c_str());
      return nullptr;
    }
    return new ICudaEngine(std::move(plan), logger_);
  }

 private:
  ILogger& logger_;
};

}  // namespace nvinfer1

extern "C" inline void* createInferRuntime_INTERNAL(void* logger, std::int32_t version) noexcept {
  if (version != NV_TENSORRT_VERSION) return nullptr;
  return new nvinfer1::IRuntime(*static_cast<nvinfer1::ILogger*>(logger));
}

#endif

#include "backends/tensorrt/tensorrt_engines.hpp"

#include <algorithm>
#include <utility>

#include "backends/nvidia/cuda.hpp"
#include "backends/nvidia/libraries.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::OptProfileSelector;
using nvinfer1::TensorIOMode;

std::string& last_tensorrt_error() noexcept {
  thread_local std::string error;
  return error;
}

// Forwards TensorRT's messages to the log. A thread's last error is the reason of its call that fails.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    try {
      if (severity <= Severity::kERROR) last_tensorrt_error() = message;
      if (severity == Severity::kVERBOSE) return;
      core::log(severity <= Severity::kERROR     ? REXIT_LOG_ERROR
                : severity == Severity::kWARNING ? REXIT_LOG_WARNING
                                                 : REXIT_LOG_DEBUG,
                std::string("tensorrt: ") + message);
    } catch (...) {  // out of memory: the line is lost
    }
  }
};

// Never destroyed: TensorRT keeps the process's first logger.
nvinfer1::ILogger& logger() {
  static Logger& instance = *new Logger;
  return instance;
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

template <class Size>
std::string shape_text(const Size* sizes, std::size_t count) {
  std::string list;
  for (std::size_t i = 0; i < count; ++i)
    list += (i == 0 ? "" : ", ") + (sizes[i] == any_size ? std::string("dynamic") : std::to_string(sizes[i]));
  return "[" + list + "]";
}

std::string shape_text(const Dims& dims) {
  return shape_text(dims.d, static_cast<std::size_t>(std::clamp<std::int64_t>(dims.nbDims, 0, Dims::MAX_DIMS)));
}

void check_tensor(const LoadedEngine& loaded, const TensorSpec& spec, TensorIOMode mode) {
  const char *side = mode == TensorIOMode::kINPUT ? "input" : "output", *name = spec.name.c_str();
  const nvinfer1::ICudaEngine& engine = *loaded.engine;
  const std::string& where = loaded.plan.path;
  if (engine.getTensorIOMode(name) != mode) fail(REXIT_CORRUPT, where, ": the engine has no ", side, " `", spec.name, "`");
  const DataType type = engine.getTensorDataType(name);
  if (type != tensorrt_type(spec.type))
    fail(REXIT_CORRUPT, where, ": ", side, " `", spec.name, "` is ", name_of(type), ", expected ", core::name_of(spec.type));
  // Only shape inputs are in host memory. A segment has none.
  if (engine.getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE)
    fail(REXIT_CORRUPT, where, ": ", side, " `", spec.name, "` is in host memory, expected GPU memory");
  const Dims dims = engine.getTensorShape(name);
  bool matches = dims.nbDims == static_cast<std::int32_t>(spec.shape.size());
  for (std::size_t i = 0; matches && i < spec.shape.size(); ++i) {
    // The compiler may not know the size of an output after reshapes, even if the graph does.
    const bool unknown = mode == TensorIOMode::kOUTPUT && dims.d[i] == any_size;
    matches = dims.d[i] == spec.shape[i] || unknown;
  }
  if (!matches)
    fail(REXIT_CORRUPT, where, ": ", side, " `", spec.name, "` has shape ", shape_text(dims), ", expected ",
         shape_text(spec.shape.data(), spec.shape.size()));
}

// Checks an engine's actual range, which a compiler may have changed.
void check_profile(const LoadedEngine& loaded, std::size_t profile, const TensorSpec& spec, const Range& range) {
  for (const auto& [selector, expected] :
       {std::pair{OptProfileSelector::kMIN, range.min}, std::pair{OptProfileSelector::kMAX, range.max}}) {
    const Dims dims = loaded.engine->getProfileShape(spec.name.c_str(), static_cast<std::int32_t>(profile), selector);
    const Dims expected_dims = dims_of(spec, expected);
    if (dims.nbDims != expected_dims.nbDims || !std::equal(dims.d, dims.d + dims.nbDims, expected_dims.d))
      fail(REXIT_CORRUPT, loaded.plan.path, ": the ", selector == OptProfileSelector::kMIN ? "minimum" : "maximum",
           " shape of input `", spec.name, "` in profile ", profile, " is ", shape_text(dims), ", engine.json says ",
           shape_text(expected_dims));
  }
}

const Range& range_of(const OptimizationProfile& profile, Dynamic dynamic) {
  return dynamic == Dynamic::prefix ? profile.prefix : dynamic == Dynamic::rows ? profile.rows : profile.tokens;
}

void check(const LoadedEngine& loaded) {
  for (const TensorSpec& spec : loaded.inputs) check_tensor(loaded, spec, TensorIOMode::kINPUT);
  for (const TensorSpec& spec : loaded.outputs) check_tensor(loaded, spec, TensorIOMode::kOUTPUT);
  const std::size_t expected = loaded.inputs.size() + loaded.outputs.size();
  const auto count = static_cast<std::size_t>(loaded.engine->getNbIOTensors());
  if (count != expected)
    fail(REXIT_CORRUPT, loaded.plan.path, ": the engine has ", count, " inputs and outputs, the manifest names ", expected);
  const std::vector<OptimizationProfile>& profiles = loaded.plan.profiles;
  if (loaded.engine->getNbOptimizationProfiles() != static_cast<std::int32_t>(profiles.size()))
    fail(REXIT_CORRUPT, loaded.plan.path, ": the engine has ", loaded.engine->getNbOptimizationProfiles(),
         " profiles, engine.json has ", profiles.size());
  for (std::size_t p = 0; p < profiles.size(); ++p)
    for (std::size_t i = 0; i < loaded.inputs.size(); ++i)
      check_profile(loaded, p, loaded.inputs[i], range_of(profiles[p], loaded.inputs[i].dynamic));
}

void check_range(const LoadedEngine& loaded, std::size_t size, const Range& range, const char* unit) {
  if (range.contains(size)) return;
  fail(size > range.max ? REXIT_TOO_LONG : REXIT_BACKEND_FAILED, loaded.plan.path, ": ", size, " ", unit,
       ", the engine was compiled for ", range.min, " to ", range.max);
}

}  // namespace

std::string take_tensorrt_error() {
  std::string error;
  error.swap(last_tensorrt_error());
  std::replace(error.begin(), error.end(), '\n', ' ');
  return error.empty() ? "no reason given" : error;
}

void clear_tensorrt_error() noexcept { last_tensorrt_error().clear(); }

std::size_t bytes_of(const TensorSpec& spec, std::size_t dynamic) noexcept {
  std::size_t bytes = bytes_of(spec.type);
  for (const std::int64_t n : spec.shape) bytes *= n == any_size ? dynamic : static_cast<std::size_t>(n);
  return bytes;
}

Dims dims_of(const TensorSpec& spec, std::size_t dynamic) noexcept {
  Dims result{};
  result.nbDims = static_cast<std::int32_t>(spec.shape.size());
  for (std::size_t i = 0; i < spec.shape.size(); ++i)
    result.d[i] = spec.shape[i] == any_size ? static_cast<std::int64_t>(dynamic) : spec.shape[i];
  return result;
}

// Profiles differ in P'.
std::size_t LoadedEngine::profile_for(const PassSizes& sizes) const {
  std::size_t index = 0;
  while (index + 1 < plan.profiles.size() && !plan.profiles[index].prefix.contains(sizes.prefix)) ++index;
  const OptimizationProfile& profile = plan.profiles[index];
  check_range(*this, sizes.prefix, profile.prefix, "prefix tokens");
  check_range(*this, sizes.tokens, profile.tokens, "tokens");
  check_range(*this, sizes.rows, profile.rows, "rows");
  return index;
}

Accelerator find_accelerator(std::int32_t device) {
  const cuda::Api& api = cuda::api();
  int count = 0, major = 0, minor = 0;
  const cudaError_t error = api.cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0)
    fail(REXIT_BACKEND_MISSING,
         "device `tensorrt`: CUDA finds no GPU: ", api.cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
  if (device >= count) fail(REXIT_INVALID_ARGUMENT, "device_id is ", device, ", this machine has GPUs 0 to ", count - 1);
  const auto attribute = [&](int* value, cudaDeviceAttr name) {
    cuda::check(api.cudaDeviceGetAttribute(value, name, device), "asking for the compute capability");
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  return {std::to_string(major) + "." + std::to_string(minor), tensorrt_version_text(tensorrt_library().version)};
}

TensorRtEngines::TensorRtEngines(const Bundle& bundle, const Accelerator& here) {
  clear_tensorrt_error();
  runtime_.reset(static_cast<nvinfer1::IRuntime*>(tensorrt_library().create_runtime(&logger(), NV_TENSORRT_VERSION)));
  if (runtime_ == nullptr) fail(REXIT_BACKEND_FAILED, "TensorRT could not start: ", take_tensorrt_error());
  const std::vector<Plan> plans = find_engines(bundle, here);
  for (std::size_t k = 0; k < plans.size(); ++k) {
    const Segment& segment = bundle.variant().segments[k];
    LoadedEngine loaded{plans[k], segment_inputs(bundle.model(), segment), segment_outputs(bundle.model(), segment), nullptr};
    const File file = bundle.folder().open(loaded.plan.file);
    loaded.engine.reset(runtime_->deserializeCudaEngine(file.data(), file.size()));
    if (loaded.engine == nullptr)
      fail(REXIT_BACKEND_FAILED, loaded.plan.path, ": TensorRT ", here.tensorrt_version,
           " could not load the engine: ", take_tensorrt_error());
    check(loaded);
    engines_.push_back(std::move(loaded));
  }
}

}  // namespace rexit::core

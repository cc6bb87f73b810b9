#include "backends/onnxruntime/ort_zero.hpp"

#include <array>
#include <string>
#include <vector>

#include "backends/onnxruntime/ort_graph.hpp"
#include "backends/onnxruntime/ort_library.hpp"
#include "base/status.hpp"

namespace rexit::core {
namespace {

class OrtZeroGraph final : public ZeroGraph {
 public:
  OrtZeroGraph(const Bundle& bundle, const Ort::SessionOptions& options, const Execution& execution)
      : path_(bundle.where(bundle.catalog().zero)),
        width_(bundle.program().numbers.size()),
        cpu_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
    Segment segment{};
    segment.graph = bundle.catalog().zero;
    try {
      session_ = load_graph(bundle, segment, options, execution);
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
      const OrtArena::Run memory(ort_arena());
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

}  // namespace

std::shared_ptr<const ZeroGraph> make_ort_zero_graph(const Bundle& bundle, const Execution& execution) {
  ort_environment(execution);
  Ort::SessionOptions options;
  options.DisableMemPattern();
  options.AddConfigEntry("session.use_env_allocators", "1");  // the arena of ort_environment
  Execution in_this_thread = execution;
  in_this_thread.own_threads = true;
  in_this_thread.threads = 1;
  return std::make_shared<const OrtZeroGraph>(bundle, options, in_this_thread);
}

}  // namespace rexit::core

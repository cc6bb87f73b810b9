#include "backends/onnxruntime/ort_kernels.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/attention/slate_attention.hpp"
#include "kernels/products/bfloat16_products.hpp"
#include "kernels/products/int8_products.hpp"
#include "kernels/rows/rows.hpp"

namespace rexit::core {
namespace {

using kernels::Activation;
using kernels::PackedWeight;
using kernels::QuantizedInput;
using kernels::QuantizedRows;
using kernels::RoundedRows;
using kernels::Threads;

constexpr std::size_t max_axes = 4;

// For graphs that the exporter did not write.
void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// A tensor of at most four axes. rows() merges all axes except the last.
struct Tensor {
  const void* data = nullptr;
  std::array<std::int64_t, max_axes> sizes{};
  std::size_t rank = 0, count = 0;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  std::size_t size(std::size_t axis) const { return static_cast<std::size_t>(sizes[axis]); }
  std::size_t width() const { return rank == 0 ? 1 : size(rank - 1); }
  std::size_t rows() const { return width() == 0 ? 0 : count / width(); }
  bool same_shape(const Tensor& other) const { return rank == other.rank && sizes == other.sizes; }
};

// Rows without columns are as none, so that no scale or sum of theirs would be written.
void require_rows(const Tensor& x) {
  require(x.rank >= 1, "x is a scalar, expected at least one axis");
  require(x.width() > 0, "x has no columns");
}

class Call final : public Threads {
 public:
  // Called by the thread that runs the segment.
  explicit Call(OrtKernelContext* context) : context_(context) {}
  ~Call() {
    if (arena_ != nullptr) Ort::GetApi().ReleaseAllocator(arena_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  Tensor input(std::size_t index) const {
    const Ort::ConstValue value = context_.GetInput(index);
    const auto info = value.GetTensorTypeAndShapeInfo();
    Tensor tensor{value.GetTensorRawData(), {}, info.GetDimensionsCount(), info.GetElementCount(), info.GetElementType()};
    require(tensor.rank <= max_axes, "an input has more than four axes");
    // The C API, since the C++ wrapper allocates a vector.
    Ort::ThrowOnError(Ort::GetApi().GetDimensions(info, tensor.sizes.data(), tensor.rank));
    return tensor;
  }

  template <class T>
  T* output(std::size_t index, const Tensor& shape) const {
    return context_.GetOutput(index, shape.sizes.data(), shape.rank).GetTensorMutableData<T>();
  }

  // An output: bfloat16 values in x's shape.
  RoundedRows rounded(const Tensor& x, std::size_t index = 0) const {
    require_rows(x);
    return {output<std::uint16_t>(index, x), x.rows(), x.width()};
  }

  // Outputs from `first` on: uint8 values in x's shape, and a scale per row.
  QuantizedRows quantized(const Tensor& x, std::size_t first = 0) const {
    require_rows(x);
    Tensor scales = x;
    scales.sizes[x.rank - 1] = 1;
    auto* values = output<std::uint8_t>(first, x);
    return {values, output<float>(first + 1, scales), x.rows(), x.width()};
  }

 private:
  // From ONNX Runtime's arena, as its own operators do.
  void* allocate(std::size_t bytes) const override {
    static const Ort::MemoryInfo& cpu = *new Ort::MemoryInfo(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault));
    if (arena_ == nullptr)
      Ort::ThrowOnError(Ort::GetApi().KernelContext_GetAllocator(context_.GetOrtKernelContext(), cpu, &arena_));
    void* memory = arena_->Alloc(arena_, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  void release(void* memory) const noexcept override { arena_->Free(arena_, memory); }
  void run_nothrow(Function function, std::size_t count, void* data) const override {
    context_.ParallelFor(function, count, 0, data);
  }

  Ort::KernelContext context_;
  mutable OrtAllocator* arena_ = nullptr;  // null: nothing was allocated
};

// Base of a kernel with floats as inputs and outputs. A kernel with attributes is constructed from its Ort::ConstKernelInfo.
struct FloatKernel {
  static constexpr ONNXTensorElementDataType input_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  static constexpr ONNXTensorElementDataType output_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
};

// Input `index`, which is added to a tensor of its shape.
const float* residual(const Call& call, std::size_t index, const Tensor& x) {
  const Tensor numbers = call.input(index);
  require(numbers.same_shape(x), "the shapes of product and residual do not match");
  return numbers.as<float>();
}

// Input `index`, which is added to a product: of its shape, or a number per column.
kernels::Addend addend(const Call& call, std::size_t index, const Tensor& product) {
  const Tensor numbers = call.input(index);
  if (numbers.rank == 1 && numbers.count == product.width()) return {numbers.as<float>(), 0};
  return {residual(call, index, product), product.width()};
}

// Base of a kernel with floats as inputs, and quantized rows and their scales as outputs.
struct QuantizingKernel : FloatKernel {
  static constexpr std::size_t outputs = 2;
  static constexpr ONNXTensorElementDataType output_type(std::size_t index) {
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
};

// Base of a kernel with floats as inputs, and rows in bfloat16 as output.
struct RoundingKernel : FloatKernel {
  static constexpr std::size_t outputs = 1;
  static constexpr ONNXTensorElementDataType output_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16; }
};

// 0: none.
std::size_t window_of(float tokens) {
  constexpr float widest = 1 << 24;
  return tokens > 0 ? static_cast<std::size_t>(std::min(tokens, widest)) : 0;
}

template <bool bfloat16>
struct SlateAttentionKernel : FloatKernel {
  static constexpr const char* name = bfloat16 ? "SlateAttentionBFloat16" : "SlateAttention";
  static constexpr std::size_t inputs = 6, outputs = 1;
  static constexpr ONNXTensorElementDataType input_type(std::size_t index) {
    return index == 5         ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
           : is_stored(index) ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED  // any
                              : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  explicit SlateAttentionKernel(const Ort::ConstKernelInfo& info) : scale(info.GetAttribute<float>("scale")) {
    float tokens = 0;  // a decoder's nodes have no window
    const Ort::Status status(Ort::GetApi().KernelInfoGetAttribute_float(info, "window", &tokens));
    if (status.IsOK()) window = window_of(tokens);
  }

  void compute(const Call& call) const {
    const Tensor query = call.input(0), key = call.input(1), value = call.input(2), past_key = call.input(3),
                 past_value = call.input(4), groups = call.input(5);
    for (const Tensor* tensor : {&query, &key, &value, &past_key, &past_value})
      require(tensor->rank == 4 && tensor->size(0) == 1 && query.size(3) > 0 && tensor->size(3) == query.size(3),
              "expected [1, heads, tokens, head_dim]");
    require(key.same_shape(value) && past_key.same_shape(past_value), "keys and values have different shapes");
    for (const Tensor* tensor : {&key, &value, &past_key, &past_value})
      require(tensor->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || tensor->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
              "expected keys and values in float32 or float16");
    const std::size_t heads = query.size(1), kv_heads = key.size(1), tokens = query.size(2);
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0 && past_key.size(1) == kv_heads,
            "the number of heads is not a multiple of the number of key heads");
    require(key.size(2) == tokens && groups.rank == 1 && groups.size(0) == tokens, "expected a key and a group per query");
    kernels::attend(
        {query.as<float>(), stored(key), stored(value), stored(past_key), stored(past_value), groups.as<std::int64_t>(),
         call.output<float>(0, query), heads, kv_heads, tokens, past_key.size(2), query.size(3), scale, bfloat16, window},
        call);
  }

  static constexpr bool is_stored(std::size_t index) { return index >= 1 && index <= 4; }
  static kernels::Stored stored(const Tensor& tensor) {
    if (tensor.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return tensor.as<std::uint16_t>();
    return tensor.as<float>();
  }

  float scale;
  std::size_t window = 0;
};

// An encoder's, where nothing lies before a candidate, with the tokens' heads side by side, as a product makes and takes them.
template <bool bfloat16>
struct EncoderAttentionKernel : FloatKernel {
  static constexpr const char* name = bfloat16 ? "EncoderAttentionBFloat16" : "EncoderAttention";
  static constexpr std::size_t inputs = 4, outputs = 1;
  static constexpr ONNXTensorElementDataType input_type(std::size_t index) {
    return index == 3 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  explicit EncoderAttentionKernel(const Ort::ConstKernelInfo& info)
      : scale(info.GetAttribute<float>("scale")), window(window_of(info.GetAttribute<float>("window"))) {
    require(window > 0, "expected a window of at least 1");
  }

  void compute(const Call& call) const {
    const Tensor query = call.input(0), key = call.input(1), value = call.input(2), groups = call.input(3);
    for (const Tensor* tensor : {&query, &key, &value})
      require(tensor->rank == 4 && tensor->size(0) == 1 && query.size(3) > 0 && tensor->size(3) == query.size(3),
              "expected [1, tokens, heads, head_dim]");
    const std::size_t tokens = query.size(1), heads = query.size(2), kv_heads = key.size(2);
    require(key.same_shape(value), "keys and values have different shapes");
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0,
            "the number of heads is not a multiple of the number of key heads");
    require(key.size(1) == tokens && groups.rank == 1 && groups.size(0) == tokens, "expected a key and a group per query");
    kernels::attend({query.as<float>(), key.as<float>(), value.as<float>(), nullptr, nullptr, groups.as<std::int64_t>(),
                     call.output<float>(0, query), heads, kv_heads, tokens, 0, query.size(3), scale, bfloat16, window, true},
                    call);
  }

  float scale;
  std::size_t window;
};

struct QuantizeRowsKernel : QuantizingKernel {
  static constexpr const char* name = "QuantizeRows";
  static constexpr std::size_t inputs = 1;

  void compute(const Call& call) const {
    const Tensor x = call.input(0);
    kernels::quantize_rows(x.as<float>(), call.quantized(x), call);
  }
};

struct RmsNormQuantizeRowsKernel : QuantizingKernel {
  static constexpr const char* name = "RMSNormQuantizeRows";
  static constexpr std::size_t inputs = 2;

  explicit RmsNormQuantizeRowsKernel(const Ort::ConstKernelInfo& info) : epsilon(info.GetAttribute<float>("epsilon")) {}

  void compute(const Call& call) const {
    const Tensor x = call.input(0), weight = call.input(1);
    require(weight.rank == 1 && weight.count == x.width(), "expected a weight per column");
    kernels::rms_norm_quantize_rows(x.as<float>(), weight.as<float>(), epsilon, call.quantized(x), call);
  }

  float epsilon;
};

const float* per_column(const Call& call, std::size_t index, const Tensor& x) {
  const Tensor numbers = call.input(index);
  require(numbers.rank == 1 && numbers.count == x.width(), "expected a number per column");
  return numbers.as<float>();
}

// LayerNormQuantizeRows; AddLayerNormQuantizeRows has a residual and a factor, and its first output is the norm's.
template <bool adds>
struct LayerNormQuantizeRowsKernel : QuantizingKernel {
  static constexpr const char* name = adds ? "AddLayerNormQuantizeRows" : "LayerNormQuantizeRows";
  static constexpr std::size_t inputs = adds ? 5 : 3, outputs = adds ? 3 : 2;
  static constexpr ONNXTensorElementDataType output_type(std::size_t index) {
    return index + 2 == outputs ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  explicit LayerNormQuantizeRowsKernel(const Ort::ConstKernelInfo& info) : epsilon(info.GetAttribute<float>("epsilon")) {}

  void compute(const Call& call) const {
    const Tensor x = call.input(0);
    require_rows(x);
    kernels::LayerNorm norm{x.as<float>(), adds ? residual(call, 1, x) : nullptr, nullptr, nullptr, nullptr, epsilon, nullptr};
    norm.weight = per_column(call, adds ? 2 : 1, x);
    norm.bias = per_column(call, adds ? 3 : 2, x);
    if (adds) {
      norm.factor = per_column(call, 4, x);
      norm.y = call.output<float>(0, x);
    }
    kernels::layer_norm_quantize_rows(norm, call.quantized(x, outputs - 2), call);
  }

  float epsilon;
};

// Base of a kernel with an activation: silu without the attribute of GELU's.
template <bool gelu>
struct Activated {
  explicit Activated(const Ort::ConstKernelInfo& info) {
    if (!gelu) return;
    const auto approximate = info.GetAttribute<std::string>("approximate");
    require(approximate == "none" || approximate == "tanh", "expected approximate to be none or tanh");
    activation = approximate == "tanh" ? Activation::gelu_tanh : Activation::gelu;
  }

  Activation activation = Activation::silu;
};

struct GeluQuantizeRowsKernel : QuantizingKernel, Activated<true> {
  static constexpr const char* name = "GELUQuantizeRows";
  static constexpr std::size_t inputs = 2;

  using Activated::Activated;

  void compute(const Call& call) const {
    const Tensor x = call.input(0);
    kernels::activate_quantize_rows(activation, x.as<float>(), per_column(call, 1, x), call.quantized(x), call);
  }
};

template <bool gelu>
struct GatedQuantizeRowsKernel : QuantizingKernel, Activated<gelu> {
  static constexpr const char* name = gelu ? "GeGLUQuantizeRows" : "SwiGLUQuantizeRows";
  static constexpr std::size_t inputs = 3;

  using Activated<gelu>::Activated;

  void compute(const Call& call) const {
    const Tensor gate = call.input(0), up = call.input(1), scale = call.input(2);
    require(gate.same_shape(up) && scale.count == gate.rows(), "the shapes of gate, up and scale do not match");
    kernels::gated_quantize_rows(this->activation, gate.as<float>(), up.as<float>(), scale.as<float>(), call.quantized(gate),
                                 call);
  }
};

struct ScaleAddRowsKernel : FloatKernel {
  static constexpr const char* name = "ScaleAddRows";
  static constexpr std::size_t inputs = 3, outputs = 1;

  void compute(const Call& call) const {
    const Tensor product = call.input(0), scale = call.input(1);
    require(scale.count == product.rows(), "the shapes of product, scale and residual do not match");
    kernels::scale_add_rows(product.as<float>(), scale.as<float>(), addend(call, 2, product), call.output<float>(0, product),
                            product.rows(), product.width(), call);
  }
};

struct RoundRowsKernel : RoundingKernel {
  static constexpr const char* name = "RoundRows";
  static constexpr std::size_t inputs = 1;

  void compute(const Call& call) const {
    const Tensor x = call.input(0);
    kernels::round_rows(x.as<float>(), call.rounded(x), call);
  }
};

struct RmsNormRoundRowsKernel : RoundingKernel {
  static constexpr const char* name = "RMSNormRoundRows";
  static constexpr std::size_t inputs = 2;

  explicit RmsNormRoundRowsKernel(const Ort::ConstKernelInfo& info) : epsilon(info.GetAttribute<float>("epsilon")) {}

  void compute(const Call& call) const {
    const Tensor x = call.input(0), weight = call.input(1);
    require(weight.rank == 1 && weight.count == x.width(), "expected a weight per column");
    kernels::rms_norm_round_rows(x.as<float>(), weight.as<float>(), epsilon, call.rounded(x), call);
  }

  float epsilon;
};

struct SwigluRoundRowsKernel : RoundingKernel {
  static constexpr const char* name = "SwiGLURoundRows";
  static constexpr std::size_t inputs = 2;

  void compute(const Call& call) const {
    const Tensor gate = call.input(0), up = call.input(1);
    require(gate.same_shape(up), "the shapes of gate and up do not match");
    kernels::swiglu_round_rows(gate.as<float>(), up.as<float>(), call.rounded(gate), call);
  }
};

// Base of kernels with products of bfloat16. Inputs: x and a weight; then perhaps floats.
struct PanelKernel : FloatKernel {
  static constexpr ONNXTensorElementDataType input_type(std::size_t index) {
    return index < 2 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  // Without addend and output. `out`: receives the product's shape.
  static kernels::PanelProduct read(const Call& call, Tensor& out) {
    const Tensor x = call.input(0), weight = call.input(1);
    require_rows(x);
    require(weight.rank == 4 && weight.size(3) == 2 && weight.size(2) > 0 && weight.size(2) % kernels::panel_step == 0 &&
                weight.size(1) > 0 && x.width() == 2 * weight.size(1),
            "expected x [..., K] and a weight [panels, K / 2, a multiple of 16 columns, 2]");
    out = x;
    out.sizes[x.rank - 1] = static_cast<std::int64_t>(weight.size(0) * weight.size(2));
    out.count = x.rows() * out.width();
    return {x.as<std::uint16_t>(), weight.as<std::uint16_t>(), {}, nullptr, x.rows(), x.width(), weight.size(0), weight.size(2)};
  }
};

template <bool adds>
struct MatMulBFloat16Kernel : PanelKernel {
  static constexpr const char* name = adds ? "MatMulAddBFloat16" : "MatMulBFloat16";
  static constexpr std::size_t inputs = adds ? 3 : 2, outputs = 1;

  void compute(const Call& call) const {
    Tensor out;
    kernels::PanelProduct product = read(call, out);
    if (adds) product.addend = addend(call, 2, out);
    product.out = call.output<float>(0, out);
    kernels::multiply_panels(product, call);
  }
};

// A further input: bias.
struct MatMulGeluRoundRowsKernel : PanelKernel, Activated<true> {
  static constexpr const char* name = "MatMulGELURoundRows";
  static constexpr std::size_t inputs = 3, outputs = 1;
  static constexpr ONNXTensorElementDataType output_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16; }

  using Activated::Activated;

  void compute(const Call& call) const {
    Tensor out;
    kernels::PanelProduct product = read(call, out);
    product.addend = {per_column(call, 2, out), 0};
    kernels::multiply_activate_round_rows(activation, product, call.rounded(out), call);
  }
};

// Further inputs: bias, residual, the norm's weight and bias. Outputs: the norm, and its rounded rows.
struct MatMulLayerNormRoundRowsKernel : PanelKernel {
  static constexpr const char* name = "MatMulAddLayerNormRoundRows";
  static constexpr std::size_t inputs = 6, outputs = 2;
  static constexpr ONNXTensorElementDataType output_type(std::size_t index) {
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }

  explicit MatMulLayerNormRoundRowsKernel(const Ort::ConstKernelInfo& info) : epsilon(info.GetAttribute<float>("epsilon")) {}

  void compute(const Call& call) const {
    Tensor y;
    kernels::PanelProduct product = read(call, y);
    product.addend = {per_column(call, 2, y), 0};
    const float* weight = per_column(call, 4, y);
    const kernels::LayerNorm norm{nullptr, residual(call, 3, y),    weight, per_column(call, 5, y), nullptr,
                                  epsilon, call.output<float>(0, y)};
    kernels::multiply_layer_norm_round_rows(product, norm, call.rounded(y, 1), call);
  }

  float epsilon;
};

// Base of kernels with products of int8. Inputs: x, its scales, and for each of `weights` weights its values, scales and offsets;
// then perhaps floats.
template <std::size_t weights>
struct ProductKernel : QuantizingKernel {
  static constexpr std::size_t inputs = 2 + 3 * weights;
  static constexpr ONNXTensorElementDataType input_type(std::size_t index) {
    if (index == 0) return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    if (index == 1 || index >= inputs || index % 3 == 0) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return index % 3 == 2 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  }

  struct Operands {
    Tensor shape;  // the product's
    QuantizedInput x;
    std::array<PackedWeight, weights> weight;
    std::size_t columns;
  };

  static Operands read(const Call& call) {
    const Tensor x = call.input(0), scale = call.input(1);
    require_rows(x);
    require(scale.count == x.rows(), "expected a scale per row");
    Operands operands{x, {x.as<std::uint8_t>(), scale.as<float>(), x.rows(), x.width()}, {}, call.input(3).count};
    for (std::size_t n = 0; n < weights; ++n) {
      const Tensor values = call.input(2 + 3 * n), scales = call.input(3 + 3 * n), offsets = call.input(4 + 3 * n);
      require(values.rank == 4 && values.size(2) == PackedWeight::columns && values.size(3) == PackedWeight::depth &&
                  values.size(0) * PackedWeight::columns == operands.columns && values.size(1) * PackedWeight::depth == x.width(),
              "expected a weight [N / 16, K / 4, 16, 4]");
      require(scales.count == operands.columns && offsets.count == operands.columns, "expected a scale and an offset per column");
      operands.weight[n] = {values.as<std::int8_t>(), scales.as<float>(), offsets.as<std::int32_t>()};
    }
    operands.shape.sizes[x.rank - 1] = static_cast<std::int64_t>(operands.columns);
    operands.shape.count = x.rows() * operands.columns;
    return operands;
  }
};

template <bool adds>
struct MultiplyRowsKernel : ProductKernel<1> {
  static constexpr const char* name = adds ? "MultiplyAddRows" : "MultiplyRows";
  static constexpr std::size_t inputs = ProductKernel::inputs + (adds ? 1 : 0), outputs = 1;
  static constexpr ONNXTensorElementDataType output_type(std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }

  void compute(const Call& call) const {
    const Operands operands = read(call);
    kernels::multiply_rows(operands.x, operands.weight[0], operands.columns,
                           adds ? addend(call, ProductKernel::inputs, operands.shape) : kernels::Addend{},
                           call.output<float>(0, operands.shape), call);
  }
};

template <bool gelu>
struct MultiplyGatedQuantizeRowsKernel : ProductKernel<2>, Activated<gelu> {
  static constexpr const char* name = gelu ? "MultiplyGeGLUQuantizeRows" : "MultiplySwiGLUQuantizeRows";

  using Activated<gelu>::Activated;

  void compute(const Call& call) const {
    const Operands operands = read(call);
    kernels::multiply_gated_quantize_rows(this->activation, operands.x, operands.weight[0], operands.weight[1],
                                          call.quantized(operands.shape), call);
  }
};

// Further inputs: bias and factor.
struct MultiplyGeluQuantizeRowsKernel : ProductKernel<1>, Activated<true> {
  static constexpr const char* name = "MultiplyGELUQuantizeRows";
  static constexpr std::size_t inputs = ProductKernel::inputs + 2;

  using Activated::Activated;

  void compute(const Call& call) const {
    const Operands operands = read(call);
    kernels::multiply_activate_quantize_rows(
        activation, operands.x, operands.weight[0], per_column(call, ProductKernel::inputs, operands.shape),
        per_column(call, ProductKernel::inputs + 1, operands.shape), call.quantized(operands.shape), call);
  }
};

// Further inputs: bias, then as AddLayerNormQuantizeRows from the residual on; outputs as its.
struct MultiplyLayerNormQuantizeRowsKernel : ProductKernel<1> {
  static constexpr const char* name = "MultiplyAddLayerNormQuantizeRows";
  static constexpr std::size_t first = ProductKernel::inputs, inputs = first + 5, outputs = 3;
  static constexpr ONNXTensorElementDataType output_type(std::size_t index) {
    return index == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  explicit MultiplyLayerNormQuantizeRowsKernel(const Ort::ConstKernelInfo& info) : epsilon(info.GetAttribute<float>("epsilon")) {}

  void compute(const Call& call) const {
    const Operands operands = read(call);
    const Tensor& y = operands.shape;
    const kernels::LayerNorm norm{nullptr,
                                  residual(call, first + 1, y),
                                  per_column(call, first + 2, y),
                                  per_column(call, first + 3, y),
                                  per_column(call, first + 4, y),
                                  epsilon,
                                  call.output<float>(0, y)};
    kernels::multiply_layer_norm_quantize_rows(operands.x, operands.weight[0], per_column(call, first, y), norm,
                                               call.quantized(y, 1), call);
  }

  float epsilon;
};

// Exceptions must not reach ONNX Runtime's C code.
template <class Function>
OrtStatusPtr status_of(const char* name, const Function& function) {
  try {
    try {
      function();
      return nullptr;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      return Ort::GetApi().CreateStatus(ORT_INVALID_ARGUMENT, (std::string("rexit.") + name + ": " + error.what()).c_str());
    }
  } catch (const std::bad_alloc& error) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());  // backend_ort.cpp recognises its message
  }
}

template <class Kernel>
struct Compute : Kernel {
  explicit Compute(const Kernel& kernel) : Kernel(kernel) {}
  OrtStatusPtr ComputeV2(OrtKernelContext* context) const {
    return status_of(Kernel::name, [&] { this->compute(Call(context)); });
  }
};

template <class Kernel>
struct Operator : Ort::CustomOpBase<Operator<Kernel>, Compute<Kernel>, true> {
  Operator() { OrtCustomOp::version = ort_api_version; }  // libraries refuse operators of a newer version than theirs
  const char* GetName() const { return Kernel::name; }
  std::size_t GetInputTypeCount() const { return Kernel::inputs; }
  std::size_t GetOutputTypeCount() const { return Kernel::outputs; }
  ONNXTensorElementDataType GetInputType(std::size_t index) const { return Kernel::input_type(index); }
  ONNXTensorElementDataType GetOutputType(std::size_t index) const { return Kernel::output_type(index); }
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return status_of(Kernel::name, [&] {
      if constexpr (std::is_constructible_v<Kernel, Ort::ConstKernelInfo>)  // it has attributes
        *kernel = new Compute<Kernel>(Kernel(Ort::ConstKernelInfo(info)));
      else
        *kernel = new Compute<Kernel>(Kernel());
    });
  }
};

// Never destroyed: sessions may outlive static objects.
template <class... Kernels>
void add_operators(Ort::CustomOpDomain& domain) {
  (domain.Add(new Operator<Kernels>), ...);
}

const Ort::CustomOpDomain& make_domain() {
  auto& domain = *new Ort::CustomOpDomain("rexit");
  add_operators<SlateAttentionKernel<false>, SlateAttentionKernel<true>, EncoderAttentionKernel<false>,
                EncoderAttentionKernel<true>, QuantizeRowsKernel, RmsNormQuantizeRowsKernel, LayerNormQuantizeRowsKernel<false>,
                LayerNormQuantizeRowsKernel<true>, GeluQuantizeRowsKernel, GatedQuantizeRowsKernel<false>,
                GatedQuantizeRowsKernel<true>, ScaleAddRowsKernel, RoundRowsKernel, RmsNormRoundRowsKernel, SwigluRoundRowsKernel,
                MatMulBFloat16Kernel<false>, MatMulBFloat16Kernel<true>, MatMulGeluRoundRowsKernel,
                MatMulLayerNormRoundRowsKernel>(domain);
  // Without them ONNX Runtime expands their functions.
  if (kernels::table().int8 != nullptr)
    add_operators<MultiplyRowsKernel<false>, MultiplyRowsKernel<true>, MultiplyGatedQuantizeRowsKernel<false>,
                  MultiplyGatedQuantizeRowsKernel<true>, MultiplyGeluQuantizeRowsKernel, MultiplyLayerNormQuantizeRowsKernel>(
        domain);
  return domain;
}

}  // namespace

bool reads_weights_from_file(const std::string& precision) {
  return precision == "bf16" || (precision == "int8" && kernels::table().int8 != nullptr);
}

void add_kernels(Ort::SessionOptions& options) {
  static const Ort::CustomOpDomain& domain = make_domain();
  options.Add(domain);
}

}  // namespace rexit::core
